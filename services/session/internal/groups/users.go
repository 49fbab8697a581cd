package groups

import (
	"maps"
	"slices"
)

// Users knows which transient clients have connected as which user, and where. It may be behind: whoever sends to a client
// that has gone learns so from the gateway. It is a plain value like Index.
type Users struct {
	clients map[string]seen                // by client id
	of      map[string]map[string]struct{} // by user name
}

type seen struct{ user, gateway string }

// NewUsers returns one that knows nobody.
func NewUsers() *Users {
	return &Users{clients: make(map[string]seen), of: make(map[string]map[string]struct{})}
}

// Here says that a client is connected to a gateway; user is empty when it has none.
func (u *Users) Here(client, user, gateway string) {
	u.drop(client)
	if user == "" {
		return
	}
	u.clients[client] = seen{user, gateway}
	if u.of[user] == nil {
		u.of[user] = make(map[string]struct{}, 1)
	}
	u.of[user][client] = struct{}{}
}

// Gone says that a client is not connected to a gateway any more. If it is elsewhere by now, it stays.
func (u *Users) Gone(client, gateway string) {
	if u.clients[client].gateway == gateway {
		u.drop(client)
	}
}

// Living says which gateways there are: clients of others are gone.
func (u *Users) Living(gateways []string) {
	for client, s := range u.clients {
		if !slices.Contains(gateways, s.gateway) {
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
	if delete(u.of[s.user], client); len(u.of[s.user]) == 0 {
		delete(u.of, s.user)
	}
}

// Clients returns the clients of a user, by id.
func (u *Users) Clients(user string) []string { return slices.Sorted(maps.Keys(u.of[user])) }
