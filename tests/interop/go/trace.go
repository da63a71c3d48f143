package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// trace writes every gRPC message that the program sends and gets to a file, tokens as claims. A
// trace without a file writes nothing.
type trace struct {
	mutex sync.Mutex
	file  *os.File
	name  string
}

func openTrace(path, name string) (*trace, error) {
	t := &trace{name: name}
	if path == "" {
		return t, nil
	}
	var err error
	t.file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return t, err
}

func (t *trace) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}

// write tells of one message: which side of which method, what it is, and its error if it failed.
func (t *trace) write(side, method, what string, m any, header metadata.MD, err error) {
	line := map[string]any{"at": t.name, "side": side, "method": method, "what": what}
	if body, is := m.(proto.Message); is && err == nil {
		line["message"] = message(body)
	}
	if err != nil {
		line["code"], line["error"] = status.Code(err).String(), status.Convert(err).Message()
	}
	if said := readable(header); len(said) > 0 {
		line["metadata"] = said
	}
	text, _ := json.Marshal(line)
	t.mutex.Lock()
	defer t.mutex.Unlock()
	_, _ = t.file.Write(append(text, '\n'))
}

// readable keeps the metadata that NSM's API gives a meaning to.
func readable(header metadata.MD) map[string]any {
	said := map[string]any{}
	for key, values := range header {
		switch {
		case key == "nsm-client-token":
			tokens := make([]any, len(values))
			for i, value := range values {
				tokens[i] = claims(value)
			}
			said[key] = tokens
		case key == "path":
			paths := make([]any, len(values))
			for i, value := range values {
				_ = json.Unmarshal([]byte(value), &paths[i])
				paths[i] = withoutTokens(paths[i])
			}
			said[key] = paths
		case strings.HasPrefix(key, "nsm-"):
			said[key] = values
		}
	}
	return said
}

func (t *trace) serverOptions() []grpc.ServerOption {
	if t.file == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(t.serveUnary), grpc.ChainStreamInterceptor(t.serveStream)}
}

func (t *trace) dialOptions() []grpc.DialOption {
	if t.file == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(t.callUnary), grpc.WithChainStreamInterceptor(t.callStream)}
}

func (t *trace) serveUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	header, _ := metadata.FromIncomingContext(ctx)
	t.write("server", info.FullMethod, "request", request, header, nil)
	response, err := handler(ctx, request)
	t.write("server", info.FullMethod, "response", response, nil, err)
	return response, err
}

func (t *trace) callUnary(ctx context.Context, method string, request, response any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	sent, _ := metadata.FromOutgoingContext(ctx)
	t.write("client", method, "request", request, sent, nil)
	var got metadata.MD
	err := invoke(ctx, method, request, response, cc, append(opts, grpc.Header(&got))...)
	t.write("client", method, "response", response, got, err)
	return err
}

func (t *trace) serveStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	header, _ := metadata.FromIncomingContext(stream.Context())
	t.write("server", info.FullMethod, "open", nil, header, nil)
	err := handler(server, &tracedServerStream{stream, t, info.FullMethod})
	t.write("server", info.FullMethod, "end", nil, nil, err)
	return err
}

type tracedServerStream struct {
	grpc.ServerStream
	trace  *trace
	method string
}

func (s *tracedServerStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.trace.write("server", s.method, "request", m, nil, nil)
	}
	return err
}

func (s *tracedServerStream) SendMsg(m any) error {
	s.trace.write("server", s.method, "item", m, nil, nil)
	return s.ServerStream.SendMsg(m)
}

func (t *trace) callStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	sent, _ := metadata.FromOutgoingContext(ctx)
	t.write("client", method, "open", nil, sent, nil)
	stream, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		t.write("client", method, "end", nil, nil, err)
		return nil, err
	}
	return &tracedClientStream{stream, t, method}, nil
}

type tracedClientStream struct {
	grpc.ClientStream
	trace  *trace
	method string
}

func (s *tracedClientStream) SendMsg(m any) error {
	s.trace.write("client", s.method, "request", m, nil, nil)
	return s.ClientStream.SendMsg(m)
}

func (s *tracedClientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.trace.write("client", s.method, "end", nil, nil, err)
	} else {
		s.trace.write("client", s.method, "item", m, nil, nil)
	}
	return err
}
