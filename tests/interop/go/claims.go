package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// claims is what a token says: its header and claims, without the signature, so that nobody can
// use it. A text that is no token is told as such.
func claims(token string) any {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return map[string]any{"malformed": len(token)}
	}
	said := map[string]any{}
	for name, part := range map[string]string{"header": parts[0], "claims": parts[1]} {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return map[string]any{"malformed": len(token)}
		}
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			return map[string]any{"malformed": len(token)}
		}
		said[name] = value
	}
	return said
}
