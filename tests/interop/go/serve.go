package main

import (
	"context"
	"fmt"
	"net"
	"net/url"

	"google.golang.org/grpc"

	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/listenonurl"
)

// serve serves on every URL until the context ends or a listener fails.
func serve(ctx context.Context, server *grpc.Server, urls []url.URL) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(urls))
	told := make([]string, len(urls))
	for i := range urls {
		errs := grpcutils.ListenAndServe(ctx, &urls[i], server)
		told[i] = urls[i].String()
		go func(where string) {
			for err := range errs {
				failed <- fmt.Errorf("serving %s: %w", where, err)
			}
		}(told[i])
	}
	emit("listening", map[string]any{"urls": told})
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// publicURL is where programs on other nodes reach a manager that listens on urls.
func publicURL(urls []url.URL) (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	public := &urls[0]
	for i := range urls {
		if urls[i].Scheme == "tcp" {
			public = &urls[i]
			break
		}
	}
	return listenonurl.GetPublicURL(addresses, public).String(), nil
}
