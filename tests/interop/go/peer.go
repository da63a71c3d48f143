package main

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/edwarnicke/grpcfd"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// peer is what the programs have in common: a name, an identity, and how they serve and dial.
type peer struct {
	shared
	source *workloadapi.X509Source
	tokens token.GeneratorFunc
	trace  *trace
}

// newPeer reads the common settings and waits for an identity from the Workload API.
func newPeer(ctx context.Context, program string) (*peer, error) {
	p := &peer{shared: shared{}}
	if err := read(&p.shared); err != nil {
		return nil, err
	}
	if p.Name == "" {
		p.Name = program
	}
	var err error
	if p.source, err = workloadapi.NewX509Source(ctx); err != nil {
		return nil, fmt.Errorf("no identity from the Workload API: %w", err)
	}
	svid, err := p.source.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("no identity from the Workload API: %w", err)
	}
	emit("identity", map[string]any{"spiffe_id": svid.ID.String(), "expires": svid.Certificates[0].NotAfter})
	p.tokens = spiffejwt.TokenGeneratorFunc(p.source, p.MaxTokenLifetime)
	p.trace, err = openTrace(p.Trace, p.Name)
	return p, err
}

func (p *peer) close() {
	p.trace.close()
	_ = p.source.Close()
}

func (p *peer) serverOptions() []grpc.ServerOption {
	config := tlsconfig.MTLSServerConfig(p.source, p.source, tlsconfig.AuthorizeAny())
	config.MinVersion = tls.VersionTLS12
	return append(
		p.trace.serverOptions(),
		grpc.Creds(grpcfd.TransportCredentials(credentials.NewTLS(config))),
	)
}

// dialOptions are for a program that waits for its server: a call that finds none waits until its
// deadline, and then says why.
func (p *peer) dialOptions() []grpc.DialOption {
	return append(p.securedDialOptions(), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

// impatientDialOptions are for a program that has others to try: a server that is not there within
// the dial timeout is an error.
func (p *peer) impatientDialOptions() []grpc.DialOption {
	return append(p.securedDialOptions(), grpc.WithBlock())
}

func (p *peer) securedDialOptions() []grpc.DialOption {
	config := tlsconfig.MTLSClientConfig(p.source, p.source, tlsconfig.AuthorizeAny())
	config.MinVersion = tls.VersionTLS12
	return append(
		p.trace.dialOptions(),
		grpc.WithTransportCredentials(grpcfd.TransportCredentials(credentials.NewTLS(config))),
		grpc.WithDefaultCallOptions(grpc.PerRPCCredentials(token.NewPerRPCCredentials(p.tokens))),
		grpcfd.WithChainUnaryInterceptor(),
		grpcfd.WithChainStreamInterceptor(),
	)
}
