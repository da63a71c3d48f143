package main

import (
	"context"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

const ownNetNS = "file:///proc/thread-self/ns/net"

// memifClient fills the network namespace into preferences of type MEMIF. Its application, outside
// of this program, connects to the socket that the answer names.
type memifClient struct{}

func (memifClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, opts ...grpc.CallOption) (*networkservice.Connection, error) {
	for _, preference := range request.GetMechanismPreferences() {
		if mechanism := memif.ToMechanism(preference); mechanism != nil {
			mechanism.GetParameters()
			mechanism.SetNetNSURL(ownNetNS)
		}
	}
	return next.Client(ctx).Request(ctx, request, opts...)
}

func (memifClient) Close(ctx context.Context, conn *networkservice.Connection, opts ...grpc.CallOption) (*emptypb.Empty, error) {
	return next.Client(ctx).Close(ctx, conn, opts...)
}

// memifServer answers with an abstract socket in its own network namespace. Its application,
// outside of this program, listens there.
type memifServer struct{ socket string }

func (s memifServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	if mechanism := memif.ToMechanism(request.GetConnection().GetMechanism()); mechanism != nil {
		mechanism.GetParameters()
		mechanism.SetNetNSURL(ownNetNS)
		mechanism.SetSocketFilename(s.socket)
	}
	return next.Server(ctx).Request(ctx, request)
}

func (memifServer) Close(ctx context.Context, conn *networkservice.Connection) (*emptypb.Empty, error) {
	return next.Server(ctx).Close(ctx, conn)
}
