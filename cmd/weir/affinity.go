package main

import (
	"time"

	"github.com/weir-project/weir/dataplane"
)

// affinityPeriod is how long the number of remembered clients is taken for true.
const affinityPeriod = 30 * time.Second

// countAffinity keeps the metrics of remembered clients until the daemon's context ends.
func (d *daemon) countAffinity() error {
	if d.proxy.WaitSynced(d.ctx) != nil {
		return nil
	}
	reader, err := d.kernel.Reader()
	if err != nil {
		return err
	}
	tick := time.NewTicker(affinityPeriod)
	defer tick.Stop()
	for {
		if counts, err := reader.AffinityEntries(); err == nil {
			for name, n := range counts {
				d.metrics.Affinity(familyNamed[name], n, dataplane.MaxAffinity)
			}
		} else {
			d.logger.Error(err, "Counting the clients remembered for session affinity")
		}
		select {
		case <-d.ctx.Done():
			return reader.Close()
		case <-tick.C:
		}
	}
}
