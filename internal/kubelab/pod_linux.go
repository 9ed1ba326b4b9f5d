package kubelab

import (
	"net/url"
	"os"
	"path/filepath"
)

// inPod gives a command a mount namespace in which the credentials lie where a pod has them.
const inPod = `mount -t tmpfs none /run && mkdir -p /var/run/secrets/kubernetes.io/serviceaccount &&
cp "$0"/* /var/run/secrets/kubernetes.io/serviceaccount/ && exec "$@"`

// AsPod returns the command line that runs a command with what a pod is given to find the API server
// and be known to it, here as the admin. It needs root, and its process is that of the command.
func (c *Cluster) AsPod(argv ...string) ([]string, error) {
	dir := filepath.Join(c.cfg.Dir, "pod")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{"ca.crt": c.ca, "token": []byte(adminToken), "namespace": []byte("default")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	return append([]string{"env", "KUBERNETES_SERVICE_HOST=" + u.Hostname(), "KUBERNETES_SERVICE_PORT=" + u.Port(),
		"unshare", "--mount", "sh", "-c", inPod, dir}, argv...), nil
}
