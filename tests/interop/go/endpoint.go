package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	kernelmech "github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	memifmech "github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/networkservice/ipam/groupipam"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	registryclientinfo "github.com/networkservicemesh/sdk/pkg/registry/common/clientinfo"
	registrysendfd "github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
	"github.com/networkservicemesh/sdk/pkg/tools/cidr"
)

// runEndpoint registers services and gives whoever asks for one an address pair and its own
// network namespace.
func runEndpoint(ctx context.Context, p *peer) error {
	var settings endpointSettings
	if err := read(&settings); err != nil {
		return err
	}
	var prefixes cidr.Groups
	if err := prefixes.Decode(settings.CIDRPrefix); err != nil {
		return err
	}
	server := grpc.NewServer(p.serverOptions()...)
	endpoint.NewServer(ctx, p.tokens,
		endpoint.WithName(p.Name),
		endpoint.WithAuthorizeServer(authorize.NewServer()),
		endpoint.WithAdditionalFunctionality(
			tellServer{},
			groupipam.NewServer(prefixes),
			mechanisms.NewServer(served(&settings)),
			sendfd.NewServer(),
		),
	).Register(server)

	// What is served and registered outlives the signal: it has to be taken back first.
	serveCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- serve(serveCtx, server, []url.URL{settings.ListenOn}) }()

	unregister, err := register(serveCtx, p, &settings)
	if err != nil {
		return err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		unregister()
		stop()
		err = <-done
	}
	return err
}

// served are the mechanisms that the endpoint agrees to.
func served(settings *endpointSettings) map[string]networkservice.NetworkServiceServer {
	all := map[string]networkservice.NetworkServiceServer{
		kernelmech.MECHANISM: kernel.NewServer(),
		memifmech.MECHANISM:  memifServer{settings.MemifSocket},
	}
	wanted := map[string]networkservice.NetworkServiceServer{}
	for _, name := range settings.Mechanisms {
		if server := all[name]; server != nil {
			wanted[name] = server
		}
	}
	return wanted
}

// register registers the services and the endpoint with the manager, if there is one; what it
// returns takes the endpoint back.
func register(ctx context.Context, p *peer, settings *endpointSettings) (func(), error) {
	if settings.ConnectTo.String() == "" {
		return func() {}, nil
	}
	policies := registryauthorize.WithPolicies(strings.Split(clientPolicies, ",")...)
	options := []registryclient.Option{
		registryclient.WithClientURL(&settings.ConnectTo),
		registryclient.WithDialOptions(p.dialOptions()...),
		registryclient.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(policies)),
		registryclient.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(policies)),
		registryclient.WithNSEAdditionalFunctionality(
			registryclientinfo.NewNetworkServiceEndpointRegistryClient(),
			registrysendfd.NewNetworkServiceEndpointRegistryClient(),
		),
	}
	if settings.RegisterService {
		services := registryclient.NewNetworkServiceRegistryClient(ctx, options...)
		for _, name := range settings.ServiceNames {
			if _, err := services.Register(ctx, &registryapi.NetworkService{Name: name, Payload: settings.Payload}); err != nil {
				return nil, fmt.Errorf("registering service %s: %w", name, err)
			}
		}
	}
	labels := map[string]*registryapi.NetworkServiceLabels{}
	for _, name := range settings.ServiceNames {
		labels[name] = &registryapi.NetworkServiceLabels{Labels: settings.Labels}
	}
	endpoints := registryclient.NewNetworkServiceEndpointRegistryClient(ctx, options...)
	registered, err := endpoints.Register(ctx, &registryapi.NetworkServiceEndpoint{
		Name:                 p.Name,
		NetworkServiceNames:  settings.ServiceNames,
		NetworkServiceLabels: labels,
		Url:                  settings.ListenOn.String(),
	})
	if err != nil {
		return nil, fmt.Errorf("registering endpoint %s: %w", p.Name, err)
	}
	emit("registered", map[string]any{"endpoint": message(registered)})
	return func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, err := endpoints.Unregister(closing, registered); err != nil {
			emit("error", map[string]any{"error": fmt.Sprintf("unregistering %s: %v", p.Name, err)})
		}
	}, nil
}

// tellServer tells of every connection that the endpoint serves or closes.
type tellServer struct{}

func (tellServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	conn, err := next.Server(ctx).Request(ctx, request)
	if err != nil {
		emit("refused", map[string]any{"id": request.GetConnection().GetId(), "error": err.Error()})
		return nil, err
	}
	emit("connected", map[string]any{"connection": message(conn)})
	return conn, nil
}

func (tellServer) Close(ctx context.Context, conn *networkservice.Connection) (*emptypb.Empty, error) {
	emit("closed", map[string]any{"id": conn.GetId()})
	return next.Server(ctx).Close(ctx, conn)
}
