// Package conformance holds what MQTT 3.1.1 and MQTT 5 demand of a server against a whole cluster: every test
// is named by the statements that it checks (those of MQTT 5; "3.1.1" before a number says that it is one of
// the older standard) and runs with its clients on one gateway and on different ones, which must not make a
// difference, in both versions of the protocol where the statement is in both.
//
// It has nothing but tests. They share one cluster; each uses client ids and topics of its own.
package conformance
