package main

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"github.com/networkservicemesh/sdk/pkg/registry/chains/memory"
	"github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
)

// runRegistry serves NSM's registry in memory, under NSM's policies.
func runRegistry(ctx context.Context, p *peer) error {
	var settings registrySettings
	if err := read(&settings); err != nil {
		return err
	}
	server := grpc.NewServer(p.serverOptions()...)
	memory.NewServer(ctx, p.tokens,
		memory.WithDialOptions(p.dialOptions()...),
		memory.WithAuthorizeNSRegistryServer(authorize.NewNetworkServiceRegistryServer(
			authorize.WithPolicies(strings.Split(serverPolicies, ",")...))),
		memory.WithAuthorizeNSERegistryServer(authorize.NewNetworkServiceEndpointRegistryServer(
			authorize.WithPolicies(strings.Split(serverPolicies, ",")...))),
		memory.WithAuthorizeNSRegistryClient(authorize.NewNetworkServiceRegistryClient(
			authorize.WithPolicies(strings.Split(clientPolicies, ",")...))),
		memory.WithAuthorizeNSERegistryClient(authorize.NewNetworkServiceEndpointRegistryClient(
			authorize.WithPolicies(strings.Split(clientPolicies, ",")...))),
	).Register(server)
	return serve(ctx, server, settings.ListenOn)
}
