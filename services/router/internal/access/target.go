package access

import (
	"strconv"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Target is what a request is about, in a word for a log: never a payload or a password.
func Target(request any) string {
	switch r := request.(type) {
	case *messagingv1.PublishRequest:
		return r.GetMessage().GetTopic()
	case *messagingv1.SendRequest:
		return receiver(r.GetReceiver())
	case *adminv1.PutAssignmentRequest:
		a := r.GetAssignment()
		return a.GetRule().String() + " " + a.GetValue() + " " + a.GetCluster()
	case *adminv1.DeleteAssignmentRequest:
		return r.GetRule().String() + " " + r.GetValue()
	case *adminv1.PutClusterRequest:
		return r.GetCluster().GetName()
	case *adminv1.SubscribeClientRequest:
		return r.GetClientId() + " " + r.GetSubscription().GetFilter()
	case *adminv1.UnsubscribeClientRequest:
		return r.GetClientId() + " " + r.GetFilter()
	case *messagingv1.AddMembersRequest:
		return r.GetGroup() + " " + strconv.Itoa(len(r.GetMembers())) + " members"
	case *messagingv1.RemoveMembersRequest:
		return r.GetGroup() + " " + strconv.Itoa(len(r.GetMembers())) + " members"
	case interface{ GetClientId() string }:
		return r.GetClientId()
	case interface{ GetName() string }:
		return r.GetName()
	case interface{ GetGateway() string }:
		return r.GetGateway()
	case interface{ GetTopic() string }:
		return r.GetTopic()
	}
	return ""
}

func receiver(r *messagingv1.Receiver) string {
	switch r.GetReceiver().(type) {
	case *messagingv1.Receiver_ClientId:
		return "client " + r.GetClientId()
	case *messagingv1.Receiver_User:
		return "user " + r.GetUser()
	case *messagingv1.Receiver_Group:
		return "group " + r.GetGroup()
	}
	return ""
}
