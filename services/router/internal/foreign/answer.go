package foreign

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// listed is a node as EMQX lists it.
type listed struct {
	name    string // name@host
	host    string
	running bool
	load    int
}

// answerNode is what both versions of the API say of a node, as far as it is used.
//
// Version 4: "GET /api/v4/nodes/{node}" in https://docs.emqx.com/en/enterprise/v4.4/advanced/http-api.html, with the
// example answer {"data":[{... "node_status":"Running","node":"emqx@127.0.0.1", ... "connections":0}],"code":0}: code 0
// is success, connections the clients that are connected.
//
// Version 5: "List EMQX nodes" of the OpenAPI document, which every EMQX serves at /api-docs
// (https://docs.emqx.com/en/enterprise/v5.4/admin/api.html) and whose texts are at
// https://github.com/emqx/emqx/blob/master/rel/i18n/emqx_mgmt_api_nodes.hocon: node is the "Node name", node_status the
// "Node status", connections the "Number of clients session in this node" and live_connections the "Number of clients
// currently connected to this node", which early versions of 5 do not have. Those texts do not list the values of
// node_status: it is "running" in any case of letters for a node that runs, and whatever else is taken as stopped.
type answerNode struct {
	Node            string `json:"node"`
	NodeStatus      string `json:"node_status"`
	Connections     int64  `json:"connections"`
	LiveConnections *int64 `json:"live_connections"`
}

// parseAnswer reads the body of an answer of a version of the API. Nothing of it goes into errors: it may repeat what
// was asked, credentials included.
func parseAnswer(api int, body []byte) ([]listed, error) {
	var nodes []answerNode
	var err error
	if api == 4 {
		answer := struct {
			Code *int         `json:"code"`
			Data []answerNode `json:"data"`
		}{}
		err = json.Unmarshal(body, &answer)
		if err == nil && (answer.Code == nil || *answer.Code != 0) {
			return nil, errors.New("the answer says that the request failed")
		}
		nodes = answer.Data
	} else {
		err = json.Unmarshal(body, &nodes)
	}
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("the answer is not JSON from byte %d on", syntax.Offset)
	case err != nil:
		return nil, fmt.Errorf("the answer is not that of version %d of the API", api)
	case len(nodes) == 0:
		// The node that answers is one itself.
		return nil, errors.New("the answer lists no node")
	case len(nodes) > maxNodes:
		return nil, fmt.Errorf("the answer lists more than %d nodes", maxNodes)
	}
	out := make([]listed, 0, len(nodes))
	seen := make(map[string]bool, len(nodes))
	for i, n := range nodes {
		_, host, ok := strings.Cut(n.Node, "@")
		if !ok || !isHost(host) || len(n.Node) > 2*maxHost {
			return nil, fmt.Errorf("node %d of the answer has no name like emqx@host", i+1)
		}
		if seen[n.Node] {
			continue
		}
		seen[n.Node] = true
		load := n.Connections
		if n.LiveConnections != nil {
			load = *n.LiveConnections
		}
		out = append(out, listed{
			name: n.Node, host: host, running: strings.EqualFold(n.NodeStatus, "running"), load: int(max(load, 0)),
		})
	}
	return out, nil
}
