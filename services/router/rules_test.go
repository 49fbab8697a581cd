package router

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

func TestEveryRuleOfTheContractIsStoredAndFollowed(t *testing.T) {
	stored, followed := map[string]bool{}, map[placement.Rule]bool{}
	for number := range adminv1.Rule_name {
		w := adminv1.Rule(number)
		text, err := ruleOf(w)
		if w == adminv1.Rule_RULE_UNSPECIFIED {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("no rule: %q, %v", text, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		x, err := fromBook(book.Assignment{Rule: text, Value: "v", Cluster: "c"})
		if err != nil {
			t.Fatal(err)
		}
		if stored[text] || followed[x.Rule] {
			t.Errorf("%v is stored as %q and followed as %v, as another one is", w, text, x.Rule)
		}
		stored[text], followed[x.Rule] = true, true
		if back := toWire(book.Assignment{Rule: text}); back.GetRule() != w {
			t.Errorf("%v comes back as %v", w, back.GetRule())
		}
	}
}

func TestAnAssignmentIsTheSameEverywhere(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stored book.Assignment
		placed placement.Assignment
		wire   *adminv1.Assignment
	}{
		{
			"a prefix",
			book.Assignment{Rule: book.Prefix, Value: "meter-", Cluster: "old", Revision: 7},
			placement.Assignment{Rule: placement.ClientIDPrefix, Value: "meter-", Cluster: "old"},
			&adminv1.Assignment{Rule: adminv1.Rule_RULE_CLIENT_ID_PREFIX, Value: "meter-", Cluster: "old", Revision: 7},
		},
		{
			"a default, stored under its cluster",
			book.Assignment{Rule: book.Default, Value: "old", Cluster: "old", Weight: 3},
			placement.Assignment{Rule: placement.Default, Cluster: "old", Weight: 3},
			&adminv1.Assignment{Rule: adminv1.Rule_RULE_DEFAULT, Cluster: "old", Weight: 3},
		},
		{
			"a default without a weight",
			book.Assignment{Rule: book.Default, Value: "old", Cluster: "old"},
			placement.Assignment{Rule: placement.Default, Cluster: "old", Weight: 1},
			&adminv1.Assignment{Rule: adminv1.Rule_RULE_DEFAULT, Cluster: "old"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			placed, err := fromBook(tc.stored)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.placed, placed); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.wire, toWire(tc.stored), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if x, err := fromBook(book.Assignment{Rule: "later"}); err == nil {
		t.Errorf("a rule that nobody knows is %v", x)
	}
}
