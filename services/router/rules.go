package router

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// rule is a rule of assignments: in the contract, in the book, and where it is followed.
type rule struct {
	wire   adminv1.Rule
	stored string
	placed placement.Rule
}

// rules are all of them.
var rules = [...]rule{ //nolint:gochecknoglobals // a table that nobody changes
	{adminv1.Rule_RULE_EXACT, book.Exact, placement.ExactTriple},
	{adminv1.Rule_RULE_CLIENT_ID, book.ClientID, placement.ClientID},
	{adminv1.Rule_RULE_CLIENT_ID_PREFIX, book.Prefix, placement.ClientIDPrefix},
	{adminv1.Rule_RULE_USERNAME, book.Username, placement.Username},
	{adminv1.Rule_RULE_DEFAULT, book.Default, placement.Default},
}

// findRule returns the rule that is meant; the zero one when there is none.
func findRule(is func(rule) bool) (rule, bool) {
	i := slices.IndexFunc(rules[:], is)
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

// ruleOf is a rule of the contract as the book has it.
func ruleOf(w adminv1.Rule) (string, error) {
	r, ok := findRule(func(r rule) bool { return r.wire == w })
	if !ok {
		return "", status.Error(codes.InvalidArgument, "rule: must be given")
	}
	return r.stored, nil
}

// fromBook is an assignment as placement has it.
func fromBook(a book.Assignment) (placement.Assignment, error) {
	r, ok := findRule(func(r rule) bool { return r.stored == a.Rule })
	if !ok {
		return placement.Assignment{}, fmt.Errorf("assignment with rule %q: not known", a.Rule)
	}
	x := placement.Assignment{Rule: r.placed, Value: a.Value, Cluster: a.Cluster}
	if x.Rule == placement.Default {
		x.Value, x.Weight = "", max(a.Weight, 1)
	}
	return x, nil
}

// toWire is an assignment of the book as the contract has it.
func toWire(a book.Assignment) *adminv1.Assignment {
	r, _ := findRule(func(r rule) bool { return r.stored == a.Rule })
	w := &adminv1.Assignment{Rule: r.wire, Value: a.Value, Cluster: a.Cluster, Weight: a.Weight, Revision: a.Revision}
	if a.Rule == book.Default {
		w.Value = ""
	}
	return w
}
