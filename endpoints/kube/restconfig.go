package kube

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The limits for our own requests. There are few: a handful of lists and watches, and events.
const (
	defaultQPS   = 5
	defaultBurst = 10
)

// dialTimeout is how long to wait for the API server to take a connection. Client-go's 30 s would
// be a long silence before the log says what is wrong.
const dialTimeout = 5 * time.Second

// hintInCluster is what to say when the address that pods are given does not answer.
const hintInCluster = "the in-cluster address %s is a ClusterIP, which weir itself has to program first: " +
	"give the API server's real address with --master, or a kubeconfig that has it with --kubeconfig"

// RESTConfig returns how to talk to the API server: by a kubeconfig file, at the address master,
// which goes before the file's, or, if neither is given, as pods do. With master alone a pod's own
// credentials are used if it has any. A failure to connect to the in-cluster address says what to
// do about it.
func RESTConfig(kubeconfig, master string) (*rest.Config, error) {
	c, err := restConfig(kubeconfig, master)
	if err != nil {
		return nil, err
	}
	c.UserAgent = "weir"
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.ContentType = runtime.ContentTypeProtobuf
	c.QPS, c.Burst = defaultQPS, defaultBurst
	c.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	return c, nil
}

func restConfig(kubeconfig, master string) (*rest.Config, error) {
	if kubeconfig != "" {
		c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig},
			&clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: master}},
		).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
		}
		return c, nil
	}
	c, err := rest.InClusterConfig()
	switch {
	case err == nil && master != "":
		c.Host = master
	case err == nil:
		c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &hinter{next, c.Host} })
	case master != "" && errors.Is(err, rest.ErrNotInCluster):
		return &rest.Config{Host: master}, nil
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, fmt.Errorf("no API server: give --kubeconfig or --master, or --manifests to do without (%w)", err)
	default:
		return nil, fmt.Errorf("in-cluster configuration: %w", err)
	}
	return c, nil
}

// hinter adds to the error of a connection that cannot be made what may be the reason.
type hinter struct {
	next http.RoundTripper
	host string
}

// RoundTrip implements http.RoundTripper.
func (h *hinter) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.next.RoundTrip(r)
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		err = fmt.Errorf("%w ("+hintInCluster+")", err, h.host)
	}
	return resp, err
}

// WrappedRoundTripper lets client-go find the transport below.
func (h *hinter) WrappedRoundTripper() http.RoundTripper { return h.next }
