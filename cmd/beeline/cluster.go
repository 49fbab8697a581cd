package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
)

func clusterCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Manage the clusters that devices can be sent to",
		Long: "List the clusters that a router knows, with their nodes, and add clusters of other brokers: those of EMQX, whose " +
			"nodes are read from its management API, or any list of brokers.",
		Example: "  beeline cluster add old --static mqtt-1.example.com:1883,mqtt-2.example.com:1883\n" +
			"  beeline cluster add emqx --emqx http://10.0.0.1:18083 --api-key KEY --secret-file /run/secrets/emqx",
	}
	o.flags(cmd)
	cmd.AddCommand(clustersCommand(&o), addClusterCommand(&o), removeClusterCommand(&o))
	return cmd
}

func clustersCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the clusters and their nodes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
				l, err := s.ListClusters(cmd.Context(), &adminv1.ListClustersRequest{})
				if err != nil {
					return fmt.Errorf("list: %w", err)
				}
				rows := [][]string{{"CLUSTER", "NODE", "ADDRESS", "WEIGHT", "ACTIVE", "CLIENTS HERE"}}
				for _, c := range l.GetClusters() {
					for _, n := range c.GetNodes() {
						rows = append(rows, []string{
							c.GetCluster().GetName(), n.GetId(), n.GetAddress(), strconv.Itoa(int(n.GetWeight())),
							strconv.FormatBool(n.GetActive()), strconv.FormatUint(n.GetClients(), 10),
						})
					}
					if len(c.GetNodes()) == 0 || c.GetTrouble() != "" {
						rows = append(rows, []string{c.GetCluster().GetName(), "-", c.GetTrouble(), "", "", ""})
					}
				}
				return o.show(cmd, l, func(out io.Writer) error { return table(out, rows...) })
			})
		},
	}
}

func addClusterCommand(o *routerOptions) *cobra.Command {
	var brokers, urls []string
	var e adminv1.Emqx
	var channel adminv1.Channel
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a cluster, or change one", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := &adminv1.Cluster{Name: args[0], Revision: anyRevision}
			switch {
			case len(brokers) > 0 && len(urls) == 0:
				s := &adminv1.Static{}
				for _, b := range brokers {
					s.Nodes = append(s.Nodes, &adminv1.Static_Node{Address: b})
				}
				c.Kind = &adminv1.Cluster_Static{Static: s}
			case len(urls) > 0 && len(brokers) == 0:
				e.Urls = urls
				c.Kind = &adminv1.Cluster_Emqx{Emqx: &e}
			default:
				return errors.New("give --static or --emqx")
			}
			if channel.GetCommandTopic() != "" {
				c.Channel = &channel
			}
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
				if _, err := s.PutCluster(cmd.Context(), &adminv1.PutClusterRequest{Cluster: c}); err != nil {
					return fmt.Errorf("add: %w", err)
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&brokers, "static", nil, "host:port of the brokers")
	f.StringSliceVar(&urls, "emqx", nil, "base URLs of EMQX's management API")
	f.StringVar(&e.ApiKey, "api-key", "", "API key of EMQX 5, application of EMQX 4")
	f.StringVar(&e.SecretFile, "secret-file", "", "file on the routers with its secret")
	f.Uint32Var(&e.ApiVersion, "api-version", 0, "version of the API: 4 or 5 (default 5)")
	f.Uint32Var(&e.MqttPort, "mqtt-port", 0, "MQTT port of the nodes (default 1883)")
	f.StringVar(&channel.CommandTopic, "command-topic", "", "where commands to its devices are published, like devices/{client_id}/{topic} (default: they are not)")
	f.StringVar(&channel.AnswerTopic, "answer-topic", "", "where its devices answer (default beeline/answers/{router})")
	f.StringVar(&channel.Username, "username", "", "user name with which routers connect for commands")
	f.StringVar(&channel.PasswordFile, "password-file", "", "file on the routers with the password")
	return cmd
}

func removeClusterCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a cluster to which no clients are assigned", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
				r := &adminv1.DeleteClusterRequest{Name: args[0], Revision: anyRevision}
				if _, err := s.DeleteCluster(cmd.Context(), r); err != nil {
					return fmt.Errorf("remove: %w", err)
				}
				return nil
			})
		},
	}
}
