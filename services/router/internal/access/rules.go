package access

import (
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Effect is what a call does.
type Effect uint8

// The effects.
const (
	// Reads changes nothing.
	Reads Effect = iota
	// Messages hands messages to devices. There are too many such calls to record each.
	Messages
	// Changes changes something that lasts, or ends somebody's connection: it is recorded.
	Changes
)

// Rule is what holds for a method.
type Rule struct {
	// Least is the least role that may call it.
	Least  Role
	Effect Effect
}

// Rules are the rules by method. A method without one may be called by nobody.
type Rules map[string]Rule

// AllRules returns the rules of all public methods.
func AllRules() Rules {
	return Rules{
		healthv1.Health_Check_FullMethodName: {Anyone, Reads},
		healthv1.Health_List_FullMethodName:  {Anyone, Reads},
		healthv1.Health_Watch_FullMethodName: {Anyone, Reads},

		reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      {Known, Reads},
		reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: {Known, Reads},

		messagingv1.MessagingService_Publish_FullMethodName:       {Publisher, Messages},
		messagingv1.MessagingService_PublishStream_FullMethodName: {Publisher, Messages},
		messagingv1.MessagingService_Send_FullMethodName:          {Publisher, Messages},
		messagingv1.MessagingService_Command_FullMethodName:       {Publisher, Messages},
		messagingv1.MessagingService_CommandStream_FullMethodName: {Publisher, Messages},
		messagingv1.MessagingService_Subscribe_FullMethodName:     {Viewer, Reads},
		messagingv1.MessagingService_WatchPresence_FullMethodName: {Viewer, Reads},

		messagingv1.GroupService_CreateGroup_FullMethodName:      {Publisher, Changes},
		messagingv1.GroupService_DeleteGroup_FullMethodName:      {Publisher, Changes},
		messagingv1.GroupService_AddMembers_FullMethodName:       {Publisher, Changes},
		messagingv1.GroupService_RemoveMembers_FullMethodName:    {Publisher, Changes},
		messagingv1.GroupService_ListGroups_FullMethodName:       {Viewer, Reads},
		messagingv1.GroupService_ListMembers_FullMethodName:      {Viewer, Reads},
		messagingv1.GroupService_ListMemberGroups_FullMethodName: {Viewer, Reads},

		adminv1.AdminService_ListClients_FullMethodName:       {Viewer, Reads},
		adminv1.AdminService_GetClient_FullMethodName:         {Viewer, Reads},
		adminv1.AdminService_ExplainTopic_FullMethodName:      {Viewer, Reads},
		adminv1.AdminService_ListRetained_FullMethodName:      {Viewer, Reads},
		adminv1.AdminService_Trace_FullMethodName:             {Viewer, Reads},
		adminv1.AdminService_DisconnectClient_FullMethodName:  {Operator, Changes},
		adminv1.AdminService_RemoveSession_FullMethodName:     {Operator, Changes},
		adminv1.AdminService_SubscribeClient_FullMethodName:   {Operator, Changes},
		adminv1.AdminService_UnsubscribeClient_FullMethodName: {Operator, Changes},
		adminv1.AdminService_DeleteRetained_FullMethodName:    {Operator, Changes},

		adminv1.GatewayService_ListGateways_FullMethodName:  {Viewer, Reads},
		adminv1.GatewayService_DrainGateway_FullMethodName:  {Operator, Changes},
		adminv1.GatewayService_ResumeGateway_FullMethodName: {Operator, Changes},
		adminv1.GatewayService_Rebalance_FullMethodName:     {Operator, Changes},

		// Explain takes a password, and says whom it belongs to.
		adminv1.PlacementService_Explain_FullMethodName:          {Operator, Reads},
		adminv1.PlacementService_ListAssignments_FullMethodName:  {Viewer, Reads},
		adminv1.PlacementService_ListClusters_FullMethodName:     {Viewer, Reads},
		adminv1.PlacementService_PutAssignment_FullMethodName:    {Operator, Changes},
		adminv1.PlacementService_DeleteAssignment_FullMethodName: {Operator, Changes},
		adminv1.PlacementService_PutCluster_FullMethodName:       {Operator, Changes},
		adminv1.PlacementService_DeleteCluster_FullMethodName:    {Operator, Changes},
	}
}
