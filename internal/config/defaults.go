package config

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// kube-proxy's defaults.
const (
	healthzPort = 10256
	metricsPort = 10249

	defaultMasqueradeBit = 14
	defaultSyncPeriod    = 30 * time.Second
	// defaultMinSyncPeriod is what kube-proxy makes of no minSyncPeriod. We make none of it.
	defaultMinSyncPeriod = time.Second
	defaultResync        = 15 * time.Minute
	defaultContentType   = "application/vnd.kubernetes.protobuf"
	defaultQPS           = 5
	defaultBurst         = 10
	defaultOOMScoreAdj   = -999
	defaultMaxPerCore    = 32 << 10
	defaultMin           = 128 << 10
	defaultEstablished   = 24 * time.Hour
	defaultCloseWait     = time.Hour
)

// setDefaults fills in what c does not say, as kube-proxy would, except for minSyncPeriod. The
// defaults of nodePortAddresses and of the addresses to bind depend on other fields and are given
// by resolve.
func setDefaults(c *v1alpha1.KubeProxyConfiguration) {
	orValue(&c.ClientConnection.ContentType, defaultContentType)
	orValue(&c.ClientConnection.QPS, defaultQPS)
	orValue(&c.ClientConnection.Burst, defaultBurst)
	orValue(&c.IPTables.SyncPeriod.Duration, defaultSyncPeriod)
	orValue(&c.IPVS.SyncPeriod.Duration, defaultSyncPeriod)
	orValue(&c.NFTables.SyncPeriod.Duration, defaultSyncPeriod)
	orValue(&c.ConfigSyncPeriod.Duration, defaultResync)
	orValue(&c.DetectLocalMode, v1alpha1.LocalMode(DetectClusterCIDR))
	orPointer(&c.IPTables.MasqueradeBit, defaultMasqueradeBit)
	orPointer(&c.NFTables.MasqueradeBit, defaultMasqueradeBit)
	orPointer(&c.IPTables.LocalhostNodePorts, true)
	orPointer(&c.OOMScoreAdj, defaultOOMScoreAdj)
	orPointer(&c.Conntrack.MaxPerCore, defaultMaxPerCore)
	orPointer(&c.Conntrack.Min, defaultMin)
	orPointer(&c.Conntrack.TCPEstablishedTimeout, metav1.Duration{Duration: defaultEstablished})
	orPointer(&c.Conntrack.TCPCloseWaitTimeout, metav1.Duration{Duration: defaultCloseWait})
	logsapi.SetRecommendedLoggingConfiguration(&c.Logging)
	c.Logging.FlushFrequency.SerializeAsString = true
}

func orValue[T comparable](v *T, unset T) {
	var zero T
	if *v == zero {
		*v = unset
	}
}

func orPointer[T any](v **T, unset T) {
	if *v == nil {
		*v = &unset
	}
}
