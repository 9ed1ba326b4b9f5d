package health

import (
	"encoding/json"
	"net/http"
)

// reply writes v as JSON with kube-proxy's headers, and returns the status code.
func reply(w http.ResponseWriter, v any, ok bool) int {
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who has gone needs no answer
	return code
}
