// Command nsm-peer is one of NSM's programs, made from NSM's own modules: registry, manager,
// endpoint or client, as the first argument says.
//
// Settings come from the environment, under the names that NSM's programs use. Standard output
// carries one JSON object a line: what happened, for a test to read. Logs go to standard error.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/log/logruslogger"
	"github.com/sirupsen/logrus"
)

var programs = map[string]func(context.Context, *peer) error{
	"registry": runRegistry,
	"manager":  runManager,
	"endpoint": runEndpoint,
	"client":   runClient,
}

func main() {
	if len(os.Args) != 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: nsm-peer registry|manager|endpoint|client")
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	logrus.SetOutput(os.Stderr)
	if level, err := logrus.ParseLevel(os.Getenv("NSM_LOG_LEVEL")); err == nil {
		logrus.SetLevel(level)
		log.EnableTracing(level == logrus.TraceLevel)
	}
	ctx = log.WithLog(ctx, logruslogger.New(ctx, map[string]interface{}{"program": os.Args[1]}))

	if err := run(ctx, os.Args[1]); err != nil {
		emit("error", map[string]any{"error": err.Error()})
		os.Exit(1)
	}
	emit("stopped", nil)
}

func run(ctx context.Context, program string) error {
	p, err := newPeer(ctx, program)
	if err != nil {
		return err
	}
	defer p.close()
	return programs[program](ctx, p)
}
