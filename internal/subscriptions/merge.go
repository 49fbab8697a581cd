package subscriptions

// merger builds the result of one Match out of the subscriptions of several filters.
type merger[K comparable] struct {
	dst       []Match[K]
	base      int // where the result begins in dst
	publisher K
	// seen is the position in dst of every key, once there are too many to search them.
	seen map[K]int
}

// manySeen is the number of keys from which on a map finds them faster than a search.
const manySeen = 16

// merge adds the subscriptions of one filter.
func (m *merger[K]) merge(list []subscription[K]) {
	for i := range list {
		sub := &list[i]
		if m.isOwn(sub) {
			continue
		}
		if at := m.find(sub.key); at >= 0 {
			m.dst[at].add(sub)
			continue
		}
		m.append(sub)
		m.remember(sub.key)
	}
}

// finish adds the subscriptions of the last filter: its keys are not looked for again.
func (m *merger[K]) finish(list []subscription[K]) {
	before := len(m.dst)
	for i := range list {
		sub := &list[i]
		if m.isOwn(sub) {
			continue
		}
		if before > m.base {
			if at := m.findBefore(before, sub.key); at >= 0 {
				m.dst[at].add(sub)
				continue
			}
		}
		m.append(sub)
	}
}

// isOwn reports whether the message is the subscriber's own and it does not want those (MQTT-3.8.3-3).
func (m *merger[K]) isOwn(sub *subscription[K]) bool {
	return sub.noLocal && sub.key == m.publisher
}

func (m *merger[K]) find(k K) int {
	return m.findBefore(len(m.dst), k)
}

// findBefore returns the position of k in dst[base:end], or -1.
func (m *merger[K]) findBefore(end int, k K) int {
	if m.seen != nil {
		if at, ok := m.seen[k]; ok {
			return at
		}
		return -1
	}
	for at := m.base; at < end; at++ {
		if m.dst[at].Key == k {
			return at
		}
	}
	return -1
}

// remember notes the key that was appended last.
func (m *merger[K]) remember(k K) {
	if m.seen != nil {
		m.seen[k] = len(m.dst) - 1
		return
	}
	if len(m.dst)-m.base <= manySeen {
		return
	}
	m.seen = make(map[K]int, 2*manySeen)
	for at := m.base; at < len(m.dst); at++ {
		m.seen[m.dst[at].Key] = at
	}
}

// append adds a Match for sub. It is filled in where it lies: building it elsewhere and copying it takes
// several times as long, which is felt when a message goes to thousands.
func (m *merger[K]) append(sub *subscription[K]) {
	m.dst = append(m.dst, Match[K]{})
	to := &m.dst[len(m.dst)-1]
	to.Key, to.QoS, to.RetainAsPublished = sub.key, sub.qos, sub.retainAsPublished
	if sub.id != nil {
		to.IDs = sub.id[:]
	}
}

// add merges another subscription of the same key into m.
func (m *Match[K]) add(s *subscription[K]) {
	m.QoS = max(m.QoS, s.qos)
	m.RetainAsPublished = m.RetainAsPublished || s.retainAsPublished
	switch {
	case s.id == nil:
	case m.IDs == nil:
		m.IDs = s.id[:]
	default:
		// m.IDs has no spare room, so this copies and leaves the subscription's own alone.
		m.IDs = append(m.IDs, s.id[0])
	}
}
