package gateway

import "github.com/beeline-mqtt/beeline/services/gateway/internal/auth"

// PasswordLine makes the line of a password file (AuthConfig.Password.File) for a user: it has a hash of the password, which
// has 1 to 72 bytes, and not the password.
func PasswordLine(user, password string) (string, error) { return auth.Line(user, password) }

// PutPassword puts a line of PasswordLine into the password file at path, in place of the one that the user has. The file is
// made if it is not there. Gateways see it within a second.
func PutPassword(path, line string) error { return auth.Put(path, line) }
