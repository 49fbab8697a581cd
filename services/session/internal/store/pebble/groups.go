package pebble

import (
	"bytes"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// lineGroups has the changes of groups carried out in order.
const lineGroups = "\x00groups"

// ChangeGroup is store.Groups's.
func (s *Store) ChangeGroup(c store.GroupChange, done func(error)) {
	size := len(c.Group)
	for _, m := range c.Members {
		size += len(c.Group) + len(m.Name) + 8
	}
	op := operation{line: lineGroups, size: size, adds: c.Kind == store.MembersAdded, done: done}
	op.stage = func(t *stage) error { return t.changeGroup(&c) }
	s.submit(op, false)
}

func (t *stage) changeGroup(c *store.GroupChange) error {
	for _, m := range c.Members {
		t.key = keyMember(t.key[:0], c.Group, m)
		var err error
		if c.Kind == store.MembersAdded {
			err = t.set(t.key, func(b []byte) []byte { return append(b, valueVersion) })
		} else {
			err = t.Delete(t.key, nil)
		}
		if err != nil {
			return err
		}
	}
	t.key = keyGroup(t.key[:0], c.Group)
	switch c.Kind {
	case store.GroupMade:
		return t.set(t.key, func(b []byte) []byte { return putInstant(append(b, valueVersion), c.At) })
	case store.GroupEnded:
		return t.Delete(t.key, nil)
	case store.MembersAdded, store.MembersRemoved:
	}
	return nil
}

// membersTogether is how many members one visit has at most.
const membersTogether = 1000

// LoadGroups is store.Groups's.
func (s *Store) LoadGroups(visit func(store.GroupChange) error) error {
	return s.read(lineGroups, func() error {
		var members store.GroupChange
		pass := func() error {
			if len(members.Members) == 0 {
				return nil
			}
			c := members
			members.Members = nil
			return visit(c)
		}
		err := scan(s.db, spaceGroups, func(key, value []byte) error {
			r, err := open(key, value)
			if err != nil {
				return err
			}
			name, member, ok := bytes.Cut(key[1:], []byte{0})
			if !ok {
				return corrupt(spaceGroups, "key is malformed")
			}
			if len(member) == 0 {
				if err := pass(); err != nil {
					return err
				}
				at := r.instant()
				members = store.GroupChange{Kind: store.MembersAdded, Group: string(name)}
				if r.bad {
					return r.err()
				}
				return visit(store.GroupChange{Kind: store.GroupMade, Group: string(name), At: at})
			}
			if string(name) != members.Group {
				return corrupt(spaceGroups, "member without a group")
			}
			members.Members = append(members.Members, store.Member{User: member[0] == 'u', Name: string(member[1:])})
			if len(members.Members) < membersTogether {
				return nil
			}
			return pass()
		})
		if err != nil {
			return err
		}
		return pass()
	})
}
