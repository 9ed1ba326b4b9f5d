package kubeproxy

import (
	"fmt"
	"net/http"
	"os"
	"testing"
)

// serveEnv makes this program a server like kube-proxy's for metrics, instead of running tests: for a
// process that is not ours.
const serveEnv = "WEIR_TEST_SERVE_PROXY_MODE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(serveEnv); mode != "" {
		http.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, mode) })
		fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:10249", nil))
		os.Exit(1)
	}
	os.Exit(m.Run())
}
