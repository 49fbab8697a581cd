package client

// aliasTable gives topic aliases (MQTT 5, 3.3.2.3.4) to the topics that a client gets. The first topics keep
// theirs until the connection ends: a client that gets few topics gains most, one that gets many loses
// nothing. Aliases are given when a packet is written, never before, so none outlives its connection.
type aliasTable struct {
	maximum uint16 // the client's Topic Alias Maximum, bounded by ours; 0: none
	topics  map[string]uint16
}

// use returns the alias for a topic, 0 for none, and whether the client knows it already.
func (a *aliasTable) use(topic string) (alias uint16, known bool) {
	if a.maximum == 0 {
		return 0, false
	}
	if alias, known = a.topics[topic]; known {
		return alias, true
	}
	if len(a.topics) >= int(a.maximum) {
		return 0, false
	}
	if a.topics == nil {
		a.topics = make(map[string]uint16)
	}
	alias = uint16(len(a.topics) + 1)
	a.topics[topic] = alias
	return alias, false
}
