// Package access is who may do what with the public services: roles, the role that each method needs, and the limits of a
// caller. It decides about calls and their requests; who the caller is, others find out. Everything in it is pure and safe
// for concurrent use.
package access

import (
	"context"
	"fmt"
)

// Role is what a caller may do; each includes the ones before it.
type Role uint8

// The roles.
const (
	// Anyone has shown nothing.
	Anyone Role = iota
	// Known has shown who it is, and no role that counts here, like a service of the cluster.
	Known
	// Viewer may read.
	Viewer
	// Publisher may publish, send, command, and change groups.
	Publisher
	// Operator may do everything.
	Operator
)

// String is the role as certificates, token files and claims name it; of the first two, a description.
func (r Role) String() string {
	switch r {
	case Viewer:
		return "viewer"
	case Publisher:
		return "publisher"
	case Operator:
		return "operator"
	case Known:
		return "no role"
	default:
		return "nobody"
	}
}

// ParseRole is the inverse of String, for the three roles that can be given.
func ParseRole(name string) (Role, error) {
	for _, r := range []Role{Viewer, Publisher, Operator} {
		if r.String() == name {
			return r, nil
		}
	}
	return Anyone, fmt.Errorf("role %q: there are viewer, publisher and operator", name)
}

// Source is by what a caller has shown who it is.
type Source string

// The sources; empty: nothing, where nothing is asked for.
const (
	ByCertificate Source = "certificate"
	ByToken       Source = "token"
	ByJWT         Source = "jwt"
)

// Principal is a caller.
type Principal struct {
	// Name is what it is called in logs; it names nobody without a role.
	Name string
	// Source is who has given it that name: two of the same name are not the same.
	Source Source
	Role   Role
	// Limits bound what it may publish and read; nil: nothing does.
	Limits *Limits
}

// ID tells callers apart.
func (p Principal) ID() string { return string(p.Source) + ":" + p.Name }

type key struct{}

// With returns a context that carries the caller.
func With(ctx context.Context, p Principal) context.Context { return context.WithValue(ctx, key{}, p) }

// From returns the caller of a handler's context; somebody who may do nothing when it carries none.
func From(ctx context.Context) Principal {
	p, ok := ctx.Value(key{}).(Principal)
	if !ok {
		return Principal{Limits: &Limits{}}
	}
	return p
}
