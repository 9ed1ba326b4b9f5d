package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-project/weir/dns/node"
)

// Leases is a collector of how the sockets of a DNS address are doing on this node.
type Leases struct{ keeper *node.Keeper }

// NewLeases returns a collector of a keeper's numbers.
func NewLeases(k *node.Keeper) Leases { return Leases{k} }

var (
	leaseHeld     = prometheus.NewDesc("weir_dns_address_served", "1 if clients of this node that ask the address are answered here, 0 if they are sent elsewhere.", []string{"address", "proto"}, nil)
	leaseRenewals = prometheus.NewDesc("weir_dns_lease_renewals_total", "Probes of the address that were answered, after which clients are answered here for two seconds more.", []string{"address", "proto"}, nil)
	leaseFailures = prometheus.NewDesc("weir_dns_lease_failures_total", "Probes of the address that failed, or whose lease could not be written.", []string{"address", "proto"}, nil)
)

// Describe implements prometheus.Collector.
func (Leases) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaseHeld, leaseRenewals, leaseFailures} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (l Leases) Collect(ch chan<- prometheus.Metric) {
	for s, st := range l.keeper.Status() {
		labels := []string{s.Addr.Addr().String(), s.Protocol()}
		held := 0.0
		if time.Until(st.Until) > 0 {
			held = 1
		}
		ch <- prometheus.MustNewConstMetric(leaseHeld, prometheus.GaugeValue, held, labels...)
		ch <- prometheus.MustNewConstMetric(leaseRenewals, prometheus.CounterValue, float64(st.Renewals), labels...)
		ch <- prometheus.MustNewConstMetric(leaseFailures, prometheus.CounterValue, float64(st.Failures), labels...)
	}
}
