package main

import (
	"net/url"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// Policies of NSM's own programs: masks that name the ones embedded in its sdk.
const (
	serverPolicies = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/server/.*.rego"
	clientPolicies = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/client/.*.rego"
)

// shared is what every program reads.
type shared struct {
	Name             string        `default:"" desc:"name of this program, the default is the program's"`
	MaxTokenLifetime time.Duration `default:"10m" split_words:"true"`
	DialTimeout      time.Duration `default:"750ms" split_words:"true"`
	Trace            string        `default:"" desc:"file that gets every gRPC message, one JSON object a line"`
}

type registrySettings struct {
	ListenOn []url.URL `default:"tcp://127.0.0.1:5002" split_words:"true"`
}

type managerSettings struct {
	ListenOn           []url.URL `default:"unix:///var/lib/networkservicemesh/nsm.io.sock" split_words:"true"`
	RegistryURL        string    `default:"" envconfig:"REGISTRY_URL" desc:"none means a registry in memory"`
	ForwarderNSName    string    `default:"forwarder" envconfig:"FORWARDER_NETWORK_SERVICE_NAME"`
	RegistryServerRego []string  `envconfig:"REGISTRY_SERVER_POLICIES"`
	RegistryClientRego []string  `envconfig:"REGISTRY_CLIENT_POLICIES"`
}

type endpointSettings struct {
	ConnectTo       url.URL           `default:"unix:///var/lib/networkservicemesh/nsm.io.sock" split_words:"true"`
	ListenOn        url.URL           `default:"unix:///var/run/vwire/endpoint.sock" split_words:"true"`
	ServiceNames    []string          `default:"icmp-responder" split_words:"true"`
	Payload         string            `default:"ETHERNET"`
	Labels          map[string]string `default:""`
	CIDRPrefix      string            `default:"169.254.0.0/16" envconfig:"CIDR_PREFIX"`
	RegisterService bool              `default:"true" split_words:"true"`
	Mechanisms      []string          `default:"KERNEL,MEMIF" desc:"types that it agrees to"`
	MemifSocket     string            `default:"@/memif/endpoint.sock" split_words:"true" desc:"where its application listens"`
}

type clientSettings struct {
	ConnectTo             url.URL       `default:"unix:///var/lib/networkservicemesh/nsm.io.sock" split_words:"true"`
	NetworkServices       []url.URL     `required:"true" split_words:"true"`
	RequestTimeout        time.Duration `default:"15s" split_words:"true"`
	DialTimeout           time.Duration `default:"5s" split_words:"true"`
	LivenessCheckEnabled  bool          `default:"true" split_words:"true"`
	LivenessCheckInterval time.Duration `default:"200ms" split_words:"true"`
	LivenessCheckTimeout  time.Duration `default:"1s" split_words:"true"`
	Once                  bool          `default:"false" desc:"tell the first failure of a Request and end"`
}

func read(into any) error {
	return envconfig.Process("nsm", into)
}
