package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	kernelmech "github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	memifmech "github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"

	nsmclient "github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/clientinfo"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/excludedprefixes"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/heal"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/upstreamrefresh"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/nsurl"

	kernelheal "github.com/networkservicemesh/sdk-kernel/pkg/kernel/tools/heal"
)

// runClient asks for every service at once, keeps the connections refreshed and healed until it is
// told to stop, and closes them.
func runClient(ctx context.Context, p *peer) error {
	var settings clientSettings
	if err := read(&settings); err != nil {
		return err
	}
	// The chain outlives the signal: what it holds has to be closed through it.
	chainCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	client := newClient(chainCtx, p, &settings)

	held := make([]*networkservice.Connection, len(settings.NetworkServices))
	failures := make([]error, len(held))
	each(len(held), func(i int) { held[i], failures[i] = connect(ctx, p, client, &settings, i) })
	err := errors.Join(failures...)
	if err == nil {
		<-ctx.Done()
	}
	each(len(held), func(i int) {
		if held[i] != nil {
			closeConnection(chainCtx, client, held[i], settings.RequestTimeout)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func newClient(ctx context.Context, p *peer, settings *clientSettings) networkservice.NetworkServiceClient {
	healing := []heal.Option{}
	if settings.LivenessCheckEnabled {
		healing = append(healing,
			heal.WithLivenessCheck(kernelheal.KernelLivenessCheck),
			heal.WithLivenessCheckInterval(settings.LivenessCheckInterval),
			heal.WithLivenessCheckTimeout(settings.LivenessCheckTimeout))
	}
	return nsmclient.NewClient(ctx,
		nsmclient.WithClientURL(&settings.ConnectTo),
		nsmclient.WithName(p.Name),
		nsmclient.WithAuthorizeClient(authorize.NewClient()),
		nsmclient.WithHealClient(heal.NewClient(ctx, healing...)),
		nsmclient.WithDialTimeout(settings.DialTimeout),
		nsmclient.WithDialOptions(p.dialOptions()...),
		nsmclient.WithAdditionalFunctionality(
			clientinfo.NewClient(),
			upstreamrefresh.NewClient(ctx),
			tellClient{},
			mechanisms.NewClient(map[string]networkservice.NetworkServiceClient{
				kernelmech.MECHANISM: kernel.NewClient(),
				memifmech.MECHANISM:  memifClient{},
			}),
			sendfd.NewClient(),
			excludedprefixes.NewClient(),
		),
	)
}

// connect asks for the i-th service until it has it, or once.
func connect(ctx context.Context, p *peer, client networkservice.NetworkServiceClient, settings *clientSettings, i int) (*networkservice.Connection, error) {
	service := (*nsurl.NSURL)(&settings.NetworkServices[i])
	request := &networkservice.NetworkServiceRequest{
		Connection: &networkservice.Connection{
			Id:             p.Name + "-" + strconv.Itoa(i),
			NetworkService: service.NetworkService(),
			Labels:         service.Labels(),
		},
		MechanismPreferences: []*networkservice.Mechanism{service.Mechanism()},
	}
	if known := adoptable(ctx, p, settings, request); known != nil {
		emit("adopted", map[string]any{"connection": message(known)})
		request.Connection = known
	}
	for {
		requestCtx, cancel := context.WithTimeout(ctx, settings.RequestTimeout)
		conn, err := client.Request(requestCtx, request.Clone())
		cancel()
		if err == nil {
			return conn, nil
		}
		failed := fmt.Errorf("%s: %w", (*url.URL)(service), err)
		if settings.Once || ctx.Err() != nil {
			return nil, failed
		}
		emit("failed", map[string]any{"id": request.GetConnection().GetId(), "error": failed.Error()})
		select {
		case <-ctx.Done():
			return nil, failed
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// adoptable is the connection that the manager still has from a former run of this client.
func adoptable(ctx context.Context, p *peer, settings *clientSettings, request *networkservice.NetworkServiceRequest) *networkservice.Connection {
	ctx, cancel := context.WithTimeout(ctx, settings.DialTimeout)
	defer cancel()
	cc, err := grpc.NewClient(grpcutils.URLToTarget(&settings.ConnectTo), p.dialOptions()...)
	if err != nil {
		return nil
	}
	defer func() { _ = cc.Close() }()
	id := request.GetConnection().GetId()
	stream, err := networkservice.NewMonitorConnectionClient(cc).MonitorConnections(ctx, &networkservice.MonitorScopeSelector{
		PathSegments: []*networkservice.PathSegment{{Id: id}},
	})
	if err != nil {
		return nil
	}
	event, err := stream.Recv()
	if err != nil {
		return nil
	}
	for _, conn := range event.GetConnections() {
		path := conn.GetPath()
		if path.GetIndex() != 1 || path.GetPathSegments()[0].GetId() != id ||
			conn.GetNetworkService() != request.GetConnection().GetNetworkService() ||
			conn.GetMechanism().GetType() != request.GetMechanismPreferences()[0].GetType() {
			continue
		}
		path.Index, conn.Id = 0, id
		return conn
	}
	return nil
}

func closeConnection(ctx context.Context, client networkservice.NetworkServiceClient, conn *networkservice.Connection, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := client.Close(ctx, conn); err != nil {
		emit("error", map[string]any{"error": fmt.Sprintf("closing %s: %v", conn.GetId(), err)})
		return
	}
	emit("closed", map[string]any{"id": conn.GetId()})
}

func each(count int, do func(int)) {
	var all sync.WaitGroup
	for i := range count {
		all.Add(1)
		go func() {
			defer all.Done()
			do(i)
		}()
	}
	all.Wait()
}

// tellClient tells of every answer that the client gets: first Requests, refreshes and heals.
type tellClient struct{}

func (tellClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, opts ...grpc.CallOption) (*networkservice.Connection, error) {
	conn, err := next.Client(ctx).Request(ctx, request, opts...)
	if err != nil {
		emit("refused", map[string]any{"id": request.GetConnection().GetId(), "error": err.Error()})
		return nil, err
	}
	emit("connected", map[string]any{"connection": message(conn)})
	return conn, nil
}

func (tellClient) Close(ctx context.Context, conn *networkservice.Connection, opts ...grpc.CallOption) (*emptypb.Empty, error) {
	return next.Client(ctx).Close(ctx, conn, opts...)
}
