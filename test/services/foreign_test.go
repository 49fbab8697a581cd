package services

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// startMosquitto runs another broker until the test ends, and returns its address.
func startMosquitto(t testing.TB) string {
	t.Helper()
	binary := mosquitto(t)
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	config := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\n", port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(binary, "-c", config)
	if testing.Verbose() {
		c.Stderr = os.Stderr
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	clustertest.Eventually(t, "mosquitto listens", func() bool {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			_ = nc.Close()
		}
		return err == nil
	})
	return address
}

// freeAddress is an address that nobody listens on: another broker cannot be asked which port it has got.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		_ = l.Close()
		return address
	}
	t.Fatal("there is no free port")
	return ""
}

// foreignCluster defines a cluster of one broker, to which clients belong whose ids begin with "far-".
func (r *rig) foreignCluster(address string, channel *adminv1.Channel) adminv1.PlacementServiceClient {
	r.t.Helper()
	placement := adminv1.NewPlacementServiceClient(r.conn)
	r.putCluster(placement, address, channel)
	if _, err := placement.PutAssignment(r.context(), &adminv1.PutAssignmentRequest{Assignment: &adminv1.Assignment{
		Rule: adminv1.Rule_RULE_CLIENT_ID_PREFIX, Value: "far-", Cluster: "far",
	}}); err != nil {
		r.t.Fatal(err)
	}
	return placement
}

func (r *rig) putCluster(placement adminv1.PlacementServiceClient, address string, channel *adminv1.Channel) {
	r.t.Helper()
	if _, err := placement.PutCluster(r.context(), &adminv1.PutClusterRequest{Cluster: &adminv1.Cluster{
		Name: "far", Revision: -1, Channel: channel, Kind: &adminv1.Cluster_Static{Static: &adminv1.Static{
			Nodes: []*adminv1.Static_Node{{Address: address}}, CheckIntervalMs: 1000,
		}},
	}}); err != nil {
		r.t.Fatal(err)
	}
}

func TestADeviceInAForeignClusterIsReachedByItsChannel(t *testing.T) {
	address := startMosquitto(t)
	r := start(t, 1)
	r.connect("near", 0, answers)
	channel := &adminv1.Channel{CommandTopic: "devices/{client_id}/{topic}"}
	placement := r.foreignCluster(address, nil)
	_, err := r.service.Command(r.context(), command("far-1", "x"))
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "channel.command_topic") {
		t.Errorf("without a channel: %v, want FAILED_PRECONDITION that says what is missing", err)
	}
	r.putCluster(placement, address, channel)
	for _, id := range []string{"far-1", "far-2"} {
		d := connectTo(t, address, id, answers)
		d.subscribe("devices/"+id+"/#", 1)
	}
	for i := range 20 {
		id := fmt.Sprint("far-", 1+i%2)
		a, err := r.service.Command(r.context(), command(id, fmt.Sprint(i)))
		if err != nil || string(a.GetMessage().GetPayload()) != fmt.Sprint("done: ", i) {
			t.Fatalf("%s: %v, %v", id, a, err)
		}
	}
	if _, err := r.service.Command(r.context(), command("near", "x")); err != nil {
		t.Errorf("in the own cluster: %v", err)
	}
	_, err = r.service.Command(r.context(), command("far-3", "x"))
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("nobody is subscribed: %v, want FAILED_PRECONDITION", err)
	}
	if _, err := r.service.Command(r.context(), command("far-/x", "x")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an id of two levels: %v, want INVALID_ARGUMENT", err)
	}
	r.withoutProperties(address)
	// A definition that has changed is in force for the next command.
	r.putCluster(placement, address, &adminv1.Channel{CommandTopic: "d/{client_id}/{topic}", AnswerTopic: "answers/{router}"})
	d := connectTo(t, address, "far-4", func(d *device, p *paho.Publish) {
		if !strings.HasPrefix(p.Properties.ResponseTopic, "answers/beeline-router-") {
			t.Errorf("the response topic is %q", p.Properties.ResponseTopic)
		}
		answers(d, p)
	})
	d.subscribe("d/far-4/do", 1)
	if _, err := r.service.Command(r.context(), command("far-4", "x")); err != nil {
		t.Errorf("after a change: %v", err)
	}
}

// withoutProperties commands a device there that answers on a topic.
func (r *rig) withoutProperties(address string) {
	r.t.Helper()
	d := connectTo(r.t, address, "far-old", func(d *device, p *paho.Publish) {
		go func() {
			_, _ = d.Publish(r.context(), &paho.Publish{Topic: "old/answers", QoS: 1, Payload: p.Payload})
		}()
	})
	d.subscribe("devices/far-old/do", 1)
	c := command("far-old", "x")
	c.ReplyTopic = "old/answers"
	if a, err := r.service.Command(r.context(), c); err != nil || string(a.GetMessage().GetPayload()) != "x" {
		r.t.Errorf("without properties: %v, %v", a, err)
	}
}

func TestAForeignBrokerThatIsNotThere(t *testing.T) {
	r := start(t, 1)
	r.foreignCluster(freeAddress(t), &adminv1.Channel{CommandTopic: "devices/{client_id}/{topic}"})
	c := command("far-1", "x")
	c.TimeoutMs = 500
	began := time.Now()
	_, err := r.service.Command(r.context(), c)
	if status.Code(err) != codes.Unavailable || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v, want UNAVAILABLE", err, time.Since(began))
	}
	placement := adminv1.NewPlacementServiceClient(r.conn)
	for name, channel := range map[string]*adminv1.Channel{
		"no command topic": {},
		"no client id":     {CommandTopic: "a/{topic}"},
		"a filter":         {CommandTopic: "+/{client_id}/{topic}"},
		"a wrong answer":   {CommandTopic: "{client_id}/{topic}", AnswerTopic: "#"},
		"half of TLS":      {CommandTopic: "{client_id}/{topic}", Tls: &adminv1.ChannelTls{CertFile: "x"}},
		"no user name":     {CommandTopic: "{client_id}/{topic}", PasswordFile: "x"},
	} {
		_, err := placement.PutCluster(r.context(), &adminv1.PutClusterRequest{Cluster: &adminv1.Cluster{
			Name: "wrong", Revision: -1, Channel: channel, Kind: &adminv1.Cluster_Static{Static: &adminv1.Static{
				Nodes: []*adminv1.Static_Node{{Address: "127.0.0.1:1"}},
			}},
		}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
}
