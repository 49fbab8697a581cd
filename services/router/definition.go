package router

import (
	"errors"
	"fmt"
	"math"
	"time"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

// definitionOf is a cluster of the contract as package foreign has it, validated.
func definitionOf(c *adminv1.Cluster) (foreign.Definition, error) {
	d := foreign.Definition{Name: c.GetName()}
	switch k := c.GetKind().(type) {
	case *adminv1.Cluster_Emqx:
		e := k.Emqx
		if e.GetMqttPort() > math.MaxUint16 {
			return d, fmt.Errorf("emqx.mqtt_port: %d is no port", e.GetMqttPort())
		}
		d.Kind = foreign.KindEMQX
		d.EMQX = &foreign.EMQX{
			URLs: e.GetUrls(), Key: e.GetApiKey(), Secret: config.Secret(e.GetApiSecret()), SecretFile: e.GetSecretFile(),
			API: int(e.GetApiVersion()), PollInterval: ms(e.GetPollIntervalMs()), MQTTPort: uint16(e.GetMqttPort()),
			Addresses: e.GetAddresses(),
		}
	case *adminv1.Cluster_Static:
		d.Kind = foreign.KindStatic
		d.Static = &foreign.Static{CheckInterval: ms(k.Static.GetCheckIntervalMs())}
		for _, n := range k.Static.GetNodes() {
			d.Static.Nodes = append(d.Static.Nodes, foreign.StaticNode{Address: n.GetAddress(), Weight: n.GetWeight()})
		}
	default:
		return d, errors.New("kind: must be given")
	}
	if x := c.GetChannel(); x != nil {
		d.Channel = &foreign.Channel{
			CommandTopic: x.GetCommandTopic(), AnswerTopic: x.GetAnswerTopic(), Username: x.GetUsername(), PasswordFile: x.GetPasswordFile(),
		}
		if t := x.GetTls(); t != nil {
			d.Channel.TLS = &foreign.ChannelTLS{
				CAFile: t.GetCaFile(), ServerName: t.GetServerName(), CertFile: t.GetCertFile(), KeyFile: t.GetKeyFile(),
			}
		}
	}
	return d, d.Validate()
}

// clusterToWire is the other way round, without the secret.
func clusterToWire(d foreign.Definition, revision int64) *adminv1.Cluster {
	c := &adminv1.Cluster{Name: d.Name, Revision: revision}
	if e := d.EMQX; e != nil {
		c.Kind = &adminv1.Cluster_Emqx{Emqx: &adminv1.Emqx{
			Urls: e.URLs, ApiKey: e.Key, SecretFile: e.SecretFile, ApiVersion: uint32(e.API),
			PollIntervalMs: toMS(e.PollInterval), MqttPort: uint32(e.MQTTPort), Addresses: e.Addresses,
		}}
	}
	if s := d.Static; s != nil {
		w := &adminv1.Static{CheckIntervalMs: toMS(s.CheckInterval)}
		for _, n := range s.Nodes {
			w.Nodes = append(w.Nodes, &adminv1.Static_Node{Address: n.Address, Weight: n.Weight})
		}
		c.Kind = &adminv1.Cluster_Static{Static: w}
	}
	if x := d.Channel; x != nil {
		c.Channel = &adminv1.Channel{
			CommandTopic: x.CommandTopic, AnswerTopic: x.AnswerTopic, Username: x.Username, PasswordFile: x.PasswordFile,
		}
		if t := x.TLS; t != nil {
			c.Channel.Tls = &adminv1.ChannelTls{CaFile: t.CAFile, ServerName: t.ServerName, CertFile: t.CertFile, KeyFile: t.KeyFile}
		}
	}
	return c
}

// ms is so many milliseconds, at most a year.
func ms(n uint64) foreign.Duration {
	const year = 365 * 24 * time.Hour
	return foreign.Duration(time.Duration(min(n, uint64(year/time.Millisecond))) * time.Millisecond)
}

func toMS(d foreign.Duration) uint64 { return uint64(time.Duration(d).Milliseconds()) }
