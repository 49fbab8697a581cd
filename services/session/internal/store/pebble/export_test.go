package pebble

// Sweep does what the store does from time to time, and returns when it is done.
func (s *Store) Sweep() {
	s.sweep()
	for {
		_ = s.queue.await(lineAll)
		s.queue.mu.Lock()
		idle := len(s.queue.latest) == 0
		s.queue.mu.Unlock()
		if idle {
			done := make(chan error)
			s.submit(operation{line: lineMeta, stage: func(*stage) error { return nil }, done: func(err error) { done <- err }}, false)
			<-done // what was staged before is durable
			return
		}
	}
}

// LookForSpace does not wait for the second to pass.
func (s *Store) LookForSpace() {
	done := make(chan error)
	s.submit(operation{line: lineMeta, stage: func(*stage) error { s.lookForSpace(); return nil }, done: func(err error) { done <- err }}, false)
	<-done
}

// Buckets returns how many buckets of messages there are.
func (s *Store) Buckets() int64 { return s.metrics.buckets.Load() }
