package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Probe is a question to the process of the same configuration, asked by another run of its program: "gateway
// health" and "gateway ready" beside "gateway". Containers have nothing else that could ask. The text is the path
// on the admin server; the zero value asks nothing, and the program is to run as usual.
type Probe string

// The probes. Health is for those who restart what is unhealthy: a process that has lost etcd is healthy, and its
// clients had better stay. Ready is for those who wait until clients are taken.
const (
	Health Probe = "/healthz"
	Ready  Probe = "/readyz"
)

// ProbeUsage is what the help of a program says about its probes.
const ProbeUsage = `  health           exit with 0 if the process with this configuration runs
  ready            exit with 0 if it is ready, otherwise say what is not
`

const (
	probeTimeout = 2 * time.Second
	// probeAnswer bounds the answer that is read.
	probeAnswer = 4 << 10
)

// ProbeOf takes the probe off the arguments of a program, if they begin with one.
func ProbeOf(args []string) (Probe, []string) {
	if len(args) == 0 {
		return "", args
	}
	switch args[0] {
	case "health":
		return Health, args[1:]
	case "ready":
		return Ready, args[1:]
	}
	return "", args
}

// Ask puts the question to the admin server of c. The error has the server's own words; nil says yes.
func (p Probe) Ask(ctx context.Context, c Config) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	url, err := c.AdminURL()
	if err != nil {
		return err
	}
	_, err = call(ctx, http.MethodGet, url+string(p))
	return err
}

// AdminURL is where the admin server of the process with this configuration is reached on its machine.
func (c Config) AdminURL() (string, error) {
	host, port, err := net.SplitHostPort(c.Admin.Address)
	if err != nil || port == "0" {
		return "", fmt.Errorf("admin.address is %q: it has to say where to ask", c.Admin.Address)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// Post has an admin server do something that takes its time, and returns its answer. The error has its own words.
func Post(ctx context.Context, url string) (answer string, err error) {
	return call(ctx, http.MethodPost, url)
}

func call(ctx context.Context, method, url string) (answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", err
	}
	// A transport of its own: no proxy of the environment is asked, and the connection ends with the answer.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, probeAnswer))
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	answer = strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(strings.ReplaceAll(answer, "\n", "; "))
	}
	return answer, nil
}
