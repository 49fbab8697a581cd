package access_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

func TestEveryMethodOfThePublicContractHasARule(t *testing.T) {
	rules := access.AllRules()
	public := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if p := f.Package(); p != "beeline.messaging.v1" && p != "beeline.admin.v1" {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				public["/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	if len(public) < 20 {
		t.Fatalf("only %d methods are looked at", len(public))
	}
	for method := range public {
		if rule, ok := rules[method]; !ok || rule.Least < access.Viewer {
			t.Errorf("%s has no rule, or none that asks for a role", method)
		}
	}
	for method := range rules {
		if strings.HasPrefix(method, "/beeline.") && !public[method] {
			t.Errorf("there is a rule for %s, which is none", method)
		}
	}
}

func TestARoleIncludesThoseBeforeIt(t *testing.T) {
	all := []access.Role{access.Anyone, access.Known, access.Viewer, access.Publisher, access.Operator}
	for i, r := range all {
		if i > 0 && r <= all[i-1] {
			t.Errorf("%v is not more than %v", r, all[i-1])
		}
		parsed, err := access.ParseRole(r.String())
		if given := r >= access.Viewer; given != (err == nil) || given && parsed != r {
			t.Errorf("%v is read as %v, %v", r, parsed, err)
		}
	}
}

func TestAContextWithoutACallerCarriesOneWhoMayDoNothing(t *testing.T) {
	if p := access.From(t.Context()); p.Role != access.Anyone || p.Limits.MayPublish("a") || p.Limits.MaySubscribe("a") {
		t.Errorf("it is %+v", p)
	}
	joe := access.Principal{Name: "joe", Role: access.Publisher}
	if p := access.From(access.With(t.Context(), joe)); p != joe {
		t.Errorf("it is %+v", p)
	}
}

func limits() *access.Limits {
	return &access.Limits{
		Publish: []string{"news/#", "a/+"}, Subscribe: []string{"news/#", "orders/+/new"},
		ClientPrefixes: []string{"meter-", "x/"}, UserPrefixes: []string{"joe"}, GroupPrefixes: []string{"chat-"},
	}
}

func TestTopicsThatMayBePublishedTo(t *testing.T) {
	for name, want := range map[string]bool{
		"news": true, "news/today": true, "a/b": true, "a/b/c": false, "other": false, "$SYS/x": false, "newsletter": false,
		"p2p/meter-1/set": true, "p2p/x%2F1/set": true, "p2p/other/set": false, "p2p/meter-1": false, "p2p//x": false,
		"user/joe/x": true, "user/ann/x": false, "group/chat-1/x": true, "group/other/x": false, "group/chat-1": false,
	} {
		if got := limits().MayPublish(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
		if !(*access.Limits)(nil).MayPublish(name) || new(access.Limits).MayPublish(name) {
			t.Errorf("%q: no limits do not allow it, or empty ones do", name)
		}
	}
	everything := &access.Limits{Publish: []string{"#"}}
	for _, address := range []string{topic.Direct("meter-1", "x"), "user/joe/x", "group/chat-1/x"} {
		if everything.MayPublish(address) {
			t.Errorf("a topic filter allows the address %q", address)
		}
	}
}

func TestRequestsOutsideOfTheLimitsAreFound(t *testing.T) {
	message := func(topic string) *messagingv1.Message { return &messagingv1.Message{Topic: topic} }
	client := func(id string) *messagingv1.Receiver {
		return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_ClientId{ClientId: id}}
	}
	open := func(filters ...string) *messagingv1.SubscribeRequest {
		o := &messagingv1.SubscribeRequest_Open{}
		for _, f := range filters {
			o.Filters = append(o.Filters, &messagingv1.SubscribeRequest_Filter{Filter: f})
		}
		return &messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Open_{Open: o}}
	}
	member := &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: "meter-1"}}
	user := &messagingv1.Member{Member: &messagingv1.Member_User{User: "ann"}}
	for name, c := range map[string]struct {
		request any
		field   string // empty: within
	}{
		"publish":                     {&messagingv1.PublishRequest{Message: message("news/x")}, ""},
		"publish elsewhere":           {&messagingv1.PublishRequest{Message: message("x")}, "message.topic"},
		"publish many":                {&messagingv1.PublishStreamRequest{Messages: []*messagingv1.Message{message("news"), message("x")}}, "messages[1].topic"},
		"publish many within":         {&messagingv1.PublishStreamRequest{Messages: []*messagingv1.Message{message("news")}}, ""},
		"send":                        {&messagingv1.SendRequest{Receiver: client("meter-1")}, ""},
		"send to another":             {&messagingv1.SendRequest{Receiver: client("m")}, "receiver"},
		"send to nobody":              {&messagingv1.SendRequest{}, "receiver"},
		"send to a user":              {&messagingv1.SendRequest{Receiver: &messagingv1.Receiver{Receiver: &messagingv1.Receiver_User{User: "joe"}}}, ""},
		"send to a group":             {&messagingv1.SendRequest{Receiver: &messagingv1.Receiver{Receiver: &messagingv1.Receiver_Group{Group: "x"}}}, "receiver"},
		"command":                     {&messagingv1.CommandRequest{ClientId: "meter-1"}, ""},
		"command another":             {&messagingv1.CommandRequest{ClientId: "m"}, "client_id"},
		"command with a reply topic":  {&messagingv1.CommandRequest{ClientId: "meter-1", ReplyTopic: "secret"}, "reply_topic"},
		"command of a stream":         {&messagingv1.CommandStreamRequest{Command: &messagingv1.CommandRequest{ClientId: "m"}}, "command.client_id"},
		"subscribe":                   {open("news/+", "orders/7/new"), ""},
		"subscribe to more":           {open("news/+", "orders/#"), "open.filters[1].filter"},
		"acknowledge":                 {&messagingv1.SubscribeRequest{}, ""},
		"retained":                    {&adminv1.ListRetainedRequest{Filter: "news/#"}, ""},
		"all retained":                {&adminv1.ListRetainedRequest{}, "filter"},
		"make a group":                {&messagingv1.CreateGroupRequest{Name: "chat-1"}, ""},
		"make another":                {&messagingv1.CreateGroupRequest{Name: "x"}, "name"},
		"delete another":              {&messagingv1.DeleteGroupRequest{Name: "x"}, "name"},
		"add to a group":              {&messagingv1.AddMembersRequest{Group: "chat-1", Members: []*messagingv1.Member{member}}, ""},
		"add to another":              {&messagingv1.AddMembersRequest{Group: "x", Members: []*messagingv1.Member{member}}, "group"},
		"add who may not be sent to":  {&messagingv1.AddMembersRequest{Group: "chat-1", Members: []*messagingv1.Member{member, user}}, "members[1]"},
		"remove from another":         {&messagingv1.RemoveMembersRequest{Group: "x"}, "group"},
		"what neither reads nor says": {&adminv1.ListClientsRequest{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var outside *access.OutsideError
			if errors.As(limits().Check(c.request), &outside); (outside == nil) != (c.field == "") || outside != nil && outside.Field != c.field {
				t.Errorf("outside: %v, want %q", outside, c.field)
			}
			if err := (*access.Limits)(nil).Check(c.request); err != nil {
				t.Errorf("without limits: %v", err)
			}
		})
	}
}

func TestWhatIsNoFilterIsNoLimit(t *testing.T) {
	for _, l := range []*access.Limits{{Publish: []string{"a/#/b"}}, {Subscribe: []string{""}}, {Subscribe: []string{"p2p/#"}}} {
		if l.Validate() == nil {
			t.Errorf("%+v is taken", l)
		}
	}
	if err := errors.Join(limits().Validate(), (*access.Limits)(nil).Validate()); err != nil {
		t.Error(err)
	}
}

func TestATargetNamesNoSecret(t *testing.T) {
	secret := &adminv1.PutAssignmentRequest{
		Assignment: &adminv1.Assignment{Rule: adminv1.Rule_RULE_EXACT, Cluster: "old"},
		Client:     &adminv1.Client{ClientId: "c", Password: []byte("hidden")},
	}
	for want, request := range map[string]any{
		"RULE_EXACT  old":   secret,
		"RULE_USERNAME joe": &adminv1.DeleteAssignmentRequest{Rule: adminv1.Rule_RULE_USERNAME, Value: "joe"},
		"old":               &adminv1.PutClusterRequest{Cluster: &adminv1.Cluster{Name: "old", Kind: &adminv1.Cluster_Emqx{Emqx: &adminv1.Emqx{ApiSecret: "hidden"}}}},
		"c":                 &adminv1.DisconnectClientRequest{ClientId: "c"},
		"c a/#":             &adminv1.UnsubscribeClientRequest{ClientId: "c", Filter: "a/#"},
		"c b/#":             &adminv1.SubscribeClientRequest{ClientId: "c", Subscription: &adminv1.Subscription{Filter: "b/#"}},
		"g":                 &messagingv1.DeleteGroupRequest{Name: "g"},
		"g 1 members":       &messagingv1.AddMembersRequest{Group: "g", Members: make([]*messagingv1.Member, 1)},
		"g 2 members":       &messagingv1.RemoveMembersRequest{Group: "g", Members: make([]*messagingv1.Member, 2)},
		"news":              &messagingv1.PublishRequest{Message: &messagingv1.Message{Topic: "news", Payload: []byte("hidden")}},
		"r":                 &adminv1.DeleteRetainedRequest{Topic: "r"},
		"user joe":          &messagingv1.SendRequest{Receiver: &messagingv1.Receiver{Receiver: &messagingv1.Receiver_User{User: "joe"}}},
		"group g":           &messagingv1.SendRequest{Receiver: &messagingv1.Receiver{Receiver: &messagingv1.Receiver_Group{Group: "g"}}},
		"client c":          &messagingv1.SendRequest{Receiver: &messagingv1.Receiver{Receiver: &messagingv1.Receiver_ClientId{ClientId: "c"}}},
		"":                  &adminv1.ListClustersRequest{},
	} {
		if got := access.Target(request); got != want {
			t.Errorf("%T: %q, want %q", request, got, want)
		}
	}
}
