package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var stdout sync.Mutex

// emit writes one event as one line of JSON to standard output.
func emit(event string, fields map[string]any) {
	line := map[string]any{"event": event, "time": time.Now().UnixNano()}
	for key, value := range fields {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(fmt.Sprintf("event %s: %v", event, err))
	}
	stdout.Lock()
	defer stdout.Unlock()
	_, _ = os.Stdout.Write(append(text, '\n'))
}

// message is m as JSON with the proto's field names, every token replaced by its claims.
func message(m proto.Message) any {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err.Error()
	}
	return withoutTokens(value)
}

// withoutTokens puts the claims of a token in place of every "token" in value.
func withoutTokens(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			if token, is := inner.(string); is && key == "token" {
				value[key] = claims(token)
			} else {
				value[key] = withoutTokens(inner)
			}
		}
	case []any:
		for i, inner := range value {
			value[i] = withoutTokens(inner)
		}
	}
	return value
}
