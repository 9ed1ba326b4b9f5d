package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzFile reads any bytes as a configuration: it never panics, and what is taken reads back.
func FuzzFile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(header + "clusterCIDR: '::ffff:1.2.3.4/96,::ffff:1.2.3.4/95,0::/0,010.0.0.0/8'\nnodePortAddresses: ['::ffff:127.0.0.1/128']"))
	f.Add([]byte(header + "logging: {flushFrequency: 5000000000, options: {text: {infoBufferSize: 1Ki}}}\nfeatureGates: {LoggingAlphaOptions: true}"))
	f.Add([]byte(`{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","clientConnection":{"qps":1e-30}}`))
	f.Add([]byte("---\n# nothing\n---\n" + header))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "config.yaml")
		write(t, file, string(data))
		c, _, err := parse(t, "--config="+file).Complete()
		if err == nil {
			roundTrip(t, c)
		}
	})
}
