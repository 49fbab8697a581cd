package groups

import (
	"maps"
	"slices"
)

// Users knows which transient clients have connected as which user, and where. It may be behind: whoever sends to a client
// that has gone learns so from the gateway. It is a plain value like Index.
type Users struct {
	clients map[string]Seen                // by client id
	of      map[string]map[string]struct{} // by user name
}

// Seen is where a client was connected, and as whom.
type Seen struct {
	User    string // empty: it has none
	Gateway string
	Epoch   uint64
}

// NewUsers returns one that knows nobody.
func NewUsers() *Users {
	return &Users{clients: make(map[string]Seen), of: make(map[string]map[string]struct{})}
}

// Here says that a client is connected to a gateway, unless it has been seen elsewhere since.
func (u *Users) Here(client string, s Seen) {
	if u.clients[client].Epoch > s.Epoch {
		return
	}
	u.drop(client)
	if s.User == "" {
		return
	}
	u.clients[client] = s
	if u.of[s.User] == nil {
		u.of[s.User] = make(map[string]struct{}, 1)
	}
	u.of[s.User][client] = struct{}{}
}

// Gone says that a client is not connected to a gateway any more. If it is elsewhere by now, it stays.
func (u *Users) Gone(client, gateway string) {
	if u.clients[client].Gateway == gateway {
		u.drop(client)
	}
}

// Living says which gateways there are: clients of others are gone.
func (u *Users) Living(gateways []string) {
	for client, s := range u.clients {
		if !slices.Contains(gateways, s.Gateway) {
			u.drop(client)
		}
	}
}

func (u *Users) drop(client string) {
	s, known := u.clients[client]
	if !known {
		return
	}
	delete(u.clients, client)
	if delete(u.of[s.User], client); len(u.of[s.User]) == 0 {
		delete(u.of, s.User)
	}
}

// Clients returns the clients of a user, by id.
func (u *Users) Clients(user string) []string { return slices.Sorted(maps.Keys(u.of[user])) }
