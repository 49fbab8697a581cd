package topic

import "strings"

// DirectPrefix begins every topic that addresses one client: p2p/<client id>/<rest>. Such a message reaches
// that client without a subscription, and no subscription reaches the message.
const DirectPrefix = "p2p/"

// IsDirect reports whether name lies under DirectPrefix.
func IsDirect(name string) bool {
	return strings.HasPrefix(name, DirectPrefix)
}

// ParseDirect returns the client id that p2p/<client id>/<rest> addresses, or ErrDirect when name is not of
// that form: the client id and the rest have at least one character each.
//
// In name / + # % of the client id are written %2F %2B %23 %25. Nothing else may be escaped, and not in
// another way: one client has one address, so that a rule about that topic cannot be evaded by spelling it
// differently. The result aliases name when there is nothing to decode.
func ParseDirect(name string) (clientID string, err error) {
	after, ok := strings.CutPrefix(name, DirectPrefix)
	if !ok {
		return "", ErrDirect
	}
	id, rest, _ := strings.Cut(after, "/")
	if id == "" || rest == "" {
		return "", ErrDirect
	}
	return unescape(id)
}

// Direct returns the topic that reaches clientID: the inverse of ParseDirect. The result still has to pass
// ValidateName, which bounds the escaped client id like any level, and refuses wildcards in rest.
func Direct(clientID, rest string) string {
	return DirectPrefix + escape(clientID) + "/" + rest
}

func escape(clientID string) string {
	s := strings.ReplaceAll(clientID, "%", "%25") // first: the others bring % along
	s = strings.ReplaceAll(s, "/", "%2F")
	s = strings.ReplaceAll(s, "+", "%2B")
	return strings.ReplaceAll(s, "#", "%23")
}

func unescape(id string) (string, error) {
	if !strings.ContainsAny(id, "%+#") {
		return id, nil
	}
	s := strings.ReplaceAll(id, "%2F", "/")
	s = strings.ReplaceAll(s, "%2B", "+")
	s = strings.ReplaceAll(s, "%23", "#")
	s = strings.ReplaceAll(s, "%25", "%") // last: what it leaves is not an escape
	if escape(s) != id {
		return "", ErrDirect
	}
	return s, nil
}
