package splice

// NewPoolWithoutBuffers returns a Pool that panics when a buffer is taken.
func NewPoolWithoutBuffers(pipes int) *Pool { return &Pool{limit: pipes} }
