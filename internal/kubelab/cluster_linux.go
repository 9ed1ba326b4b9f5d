package kubelab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/weir-project/weir/internal/netlab"
)

// Config says where and how the API server runs. The zero value is an API server on this machine's
// loopback address.
type Config struct {
	// Host is the lab host that it runs in; nil is this machine, on free ports, for which no root is needed.
	Host *netlab.Host

	// Advertise is an address of the host at which the API server listens too, and which it writes into the
	// EndpointSlice of default/kubernetes. The zero value: loopback only, and that Service has no
	// endpoints.
	Advertise netip.Addr

	// ServiceCIDR is the API server's --service-cluster-ip-range. Default: netlab's, dual stack.
	ServiceCIDR string

	APIServerArgs []string // further flags; the last of two wins

	Dir    string    // for data and logs; default: a temporary directory, removed at Close
	BinDir string    // of the binaries; default: built when missing, see BinDir
	Log    io.Writer // progress; default standard error
}

// Cluster is an API server and its etcd.
type Cluster struct {
	URL             string // as seen in the host
	AdminKubeconfig string // path; for processes in the host
	ProxyKubeconfig string // path; as system:kube-proxy

	cfg       Config
	removeDir bool
	ca        []byte
	etcdURL   string // as seen in the host
	etcd, api *daemon
	client    kubernetes.Interface
}

const (
	adminUser, adminToken = "kubelab-admin", "kubelab-admin-token"
	proxyUser, proxyToken = "system:kube-proxy", "kubelab-proxy-token"
)

// Start starts etcd and the API server and waits until it is ready.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Log == nil {
		cfg.Log = os.Stderr
	}
	if cfg.ServiceCIDR == "" {
		cfg.ServiceCIDR = netlab.ServiceCIDR4.String() + "," + netlab.ServiceCIDR6.String()
	}
	if cfg.BinDir == "" {
		var err error
		if cfg.BinDir, err = BinDir(ctx, cfg.Log, "etcd", "kube-apiserver"); err != nil {
			return nil, err
		}
	}
	c := &Cluster{cfg: cfg}
	if cfg.Dir == "" {
		dir, err := tempDir()
		if err != nil {
			return nil, err
		}
		c.cfg.Dir, c.removeDir = dir, true
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start API server: %w", err), c.Close())
	}
	return c, nil
}

// tempDir makes a directory that is named for this process, and removes those of dead ones: etcd's
// data is too large to be left to the next boot.
func tempDir() (string, error) {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "kubelab-*-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) && os.Getenv("WEIR_KEEP") == "" {
			_ = os.RemoveAll(dir)
		}
	}
	return os.MkdirTemp("", fmt.Sprintf("kubelab-%d-", os.Getpid()))
}

func (c *Cluster) start(ctx context.Context) error {
	dir := c.cfg.Dir
	ports, err := c.ports()
	if err != nil {
		return err
	}
	first4, first6 := netlab.ServiceCIDR4.Addr().Next(), netlab.ServiceCIDR6.Addr().Next()
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), first4, first6}
	if c.cfg.Advertise.IsValid() {
		addrs = append(addrs, c.cfg.Advertise)
	}
	keys, err := newPKI(dir, addrs)
	if err != nil {
		return err
	}
	c.ca = keys.ca
	c.URL = "https://127.0.0.1:" + ports.api
	if err := c.writeKubeconfigs(); err != nil {
		return err
	}
	tokens := filepath.Join(dir, "tokens.csv")
	lines := fmt.Sprintf("%s,%s,1,system:masters\n%s,%s,2\n", adminToken, adminUser, proxyToken, proxyUser)
	if err := os.WriteFile(tokens, []byte(lines), 0o600); err != nil {
		return err
	}

	c.etcdURL = "http://127.0.0.1:" + ports.etcd
	peerURL := "http://127.0.0.1:" + ports.etcdPeer
	c.etcd = newDaemon(c.cfg.Host, c.cfg.BinDir, dir, "etcd",
		"--name=lab", "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+c.etcdURL, "--advertise-client-urls="+c.etcdURL,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL, "--initial-cluster=lab="+peerURL,
		"--quota-backend-bytes=8589934592", // 50,000 services and their history are more than the default of 2 GB
	)
	args := []string{
		"--etcd-servers=" + c.etcdURL, "--secure-port=" + ports.api,
		"--tls-cert-file=" + keys.certFile, "--tls-private-key-file=" + keys.keyFile,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + keys.accountPub, "--service-account-signing-key-file=" + keys.accountKey,
		"--token-auth-file=" + tokens, "--anonymous-auth=false", "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount",
		"--service-cluster-ip-range=" + c.cfg.ServiceCIDR,
		// Populate writes with many workers; only the processor shall be the limit.
		"--max-requests-inflight=2000", "--max-mutating-requests-inflight=2000",
	}
	if c.cfg.Advertise.IsValid() {
		args = append(args, "--bind-address=0.0.0.0", "--advertise-address="+c.cfg.Advertise.String())
	} else {
		args = append(args, "--bind-address=127.0.0.1", "--endpoint-reconciler-type=none")
	}
	c.api = newDaemon(c.cfg.Host, c.cfg.BinDir, dir, "kube-apiserver", append(args, c.cfg.APIServerArgs...)...)

	if c.client, err = kubernetes.NewForConfig(c.RESTConfig()); err != nil {
		return err
	}
	if err := c.etcd.start(); err != nil {
		return err
	}
	return c.StartAPIServer(ctx)
}

type portNumbers struct{ api, etcd, etcdPeer string }

// ports are the usual ones in a lab host, which is ours alone, and free ones on this machine.
func (c *Cluster) ports() (portNumbers, error) {
	if c.cfg.Host != nil {
		return portNumbers{api: "6443", etcd: "2379", etcdPeer: "2380"}, nil
	}
	var free [3]string
	for i := range free {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return portNumbers{}, err
		}
		defer l.Close() // after all are chosen, so that they differ
		free[i] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	}
	return portNumbers{api: free[0], etcd: free[1], etcdPeer: free[2]}, nil
}

func (c *Cluster) writeKubeconfigs() error {
	c.AdminKubeconfig = filepath.Join(c.cfg.Dir, "admin.kubeconfig")
	c.ProxyKubeconfig = filepath.Join(c.cfg.Dir, "proxy.kubeconfig")
	for path, token := range map[string]string{c.AdminKubeconfig: adminToken, c.ProxyKubeconfig: proxyToken} {
		k := clientcmdapi.NewConfig()
		k.Clusters["lab"] = &clientcmdapi.Cluster{Server: c.URL, CertificateAuthorityData: c.ca}
		k.AuthInfos["user"] = &clientcmdapi.AuthInfo{Token: token}
		k.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "user"}
		k.CurrentContext = "lab"
		if err := clientcmd.WriteToFile(*k, path); err != nil {
			return err
		}
	}
	return nil
}

// RESTConfig is the admin's, without limits on the rate, speaking protobuf. It works from any namespace.
func (c *Cluster) RESTConfig() *rest.Config { return c.restConfig(adminToken) }

// ProxyRESTConfig is the same for the user system:kube-proxy.
func (c *Cluster) ProxyRESTConfig() *rest.Config { return c.restConfig(proxyToken) }

func (c *Cluster) restConfig(token string) *rest.Config {
	r := &rest.Config{
		Host:            c.URL,
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
		QPS:             -1,
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
	}
	if c.cfg.Host != nil {
		r.Dial = c.cfg.Host.Dial
	}
	return r
}

// Client returns the admin's client.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// APIServerPID is the process of the API server, 0 while it is stopped.
func (c *Cluster) APIServerPID() int { return c.api.pid() }

// Logs are the paths of the log files.
func (c *Cluster) Logs() []string { return []string{c.etcd.log, c.api.log} }

// stopGrace is how long the API server may take to end in good order. It waits for open watches,
// which a proxy under test does not give up.
const stopGrace = 3 * time.Second

// StopAPIServer stops the API server in good order; etcd goes on.
func (c *Cluster) StopAPIServer() error { return c.api.stop(stopGrace) }

// KillAPIServer ends the API server by SIGKILL; etcd goes on.
func (c *Cluster) KillAPIServer() error { return c.api.stop(0) }

// StartAPIServer starts the API server, again, with the same data, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if err := c.api.start(); err != nil {
		return err
	}
	return c.waitReady(ctx)
}

const readyTimeout = 90 * time.Second

func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		for _, d := range []*daemon{c.etcd, c.api} {
			if err := d.check(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %w%s", context.Cause(ctx), err, c.api.quote())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ready returns nil once the API server says so and has made the namespace default, which comes
// later.
func (c *Cluster) ready(ctx context.Context) error {
	if err := c.client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return err
	}
	_, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
	return err
}

// Close ends both processes and waits for them. The error tells if one had ended by itself.
func (c *Cluster) Close() error {
	var errs []error
	for _, d := range []*daemon{c.api, c.etcd} {
		if d != nil {
			errs = append(errs, d.stop(0))
		}
	}
	if c.removeDir && os.Getenv("WEIR_KEEP") == "" {
		errs = append(errs, os.RemoveAll(c.cfg.Dir))
	}
	return errors.Join(errs...)
}

// TB is what StartForTest needs of testing.TB.
type TB interface {
	netlab.TB
	Context() context.Context
	Log(args ...any)
}

// StartForTest is Start for a test; the cluster is closed when the test ends. WEIR_KEEP=1 keeps its
// directory.
func StartForTest(t TB, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error("close API server: ", err)
		}
		if os.Getenv("WEIR_KEEP") != "" {
			t.Log("kept: ", strings.Join(c.Logs(), " "))
		}
	})
	return c
}
