package main

import (
	"context"
	"net/url"
	"strings"

	"google.golang.org/grpc"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgr"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
)

// runManager serves NSM's manager of a node, under NSM's policies.
func runManager(ctx context.Context, p *peer) error {
	settings := managerSettings{
		RegistryServerRego: strings.Split(serverPolicies, ","),
		RegistryClientRego: strings.Split(clientPolicies, ","),
	}
	if err := read(&settings); err != nil {
		return err
	}
	public, err := publicURL(settings.ListenOn)
	if err != nil {
		return err
	}
	options := []nsmgr.Option{
		nsmgr.WithName(p.Name),
		nsmgr.WithURL(public),
		nsmgr.WithDialOptions(p.impatientDialOptions()...),
		nsmgr.WithDialTimeout(p.DialTimeout),
		nsmgr.WithForwarderServiceName(settings.ForwarderNSName),
		nsmgr.WithAuthorizeServer(authorize.NewServer()),
		nsmgr.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(
			registryauthorize.WithPolicies(settings.RegistryServerRego...))),
		nsmgr.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(
			registryauthorize.WithPolicies(settings.RegistryServerRego...))),
		nsmgr.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(
			registryauthorize.WithPolicies(settings.RegistryClientRego...))),
		nsmgr.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(
			registryauthorize.WithPolicies(settings.RegistryClientRego...))),
	}
	if settings.RegistryURL != "" {
		where, err := url.Parse(settings.RegistryURL)
		if err != nil {
			return err
		}
		options = append(options, nsmgr.WithRegistry(where))
	}
	server := grpc.NewServer(p.serverOptions()...)
	nsmgr.NewServer(ctx, p.tokens, options...).Register(server)
	return serve(ctx, server, settings.ListenOn)
}
