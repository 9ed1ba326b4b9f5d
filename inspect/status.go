package inspect

import (
	"fmt"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
)

// Status tells how the process is and why.
func (i *Inspector) Status() api.Status {
	c := &i.cfg
	sizes, stats := c.Engine.Sizes(), c.Kernel.Stats()
	s := api.Status{
		Meta: meta("Status"), Weir: c.Build, Node: c.Node, PID: os.Getpid(), Started: i.started,
		Source: api.Source{From: c.Source, Synced: c.Engine.Synced(), Revision: c.Engine.Revision()},
		Syncs:  i.events.syncs(),
		Sizes:  api.Sizes{Services: sizes.Services, Slices: sizes.Slices, Endpoints: sizes.Endpoints},
		Kernel: api.Kernel{Families: c.Kernel.Families(), Owned: c.Kernel.Owned(),
			Transactions: stats.Transactions, Refused: stats.Refused, Rebuilt: stats.Rebuilt},
		Memory: memory(),
	}
	if n := c.Engine.Node(); n != nil {
		s.Zone = n.Zone
	}
	s.Sizes.Frontends, s.Sizes.Slots = c.Proxy.Frontends(), c.Proxy.Slots()
	s.Syncs.WaitingSince = c.Health.Waiting()
	for _, a := range c.Proxy.SetAside() {
		s.SetAside = append(s.SetAside, api.SetAside{Service: a.Service.String(), Reason: a.Err.Error(), Since: a.Since, Retry: a.Retry})
	}
	for _, x := range c.Proxy.Conflicts() {
		conflict := api.Conflict{Frontend: frontendOf(x.Frontend), Winner: x.Winner.String()}
		for _, l := range x.Losers {
			conflict.Losers = append(conflict.Losers, l.String())
		}
		s.Conflicts = append(s.Conflicts, conflict)
	}
	if c.DNS != nil {
		s.DNS = c.DNS()
	}
	i.judge(&s)
	return s
}

// judge says whether a status is healthy, and why not.
func (i *Inspector) judge(s *api.Status) {
	because := func(format string, args ...any) { s.Reasons = append(s.Reasons, fmt.Sprintf(format, args...)) }
	switch {
	case !s.Source.Synced:
		because("%s has not been read completely yet", s.Source.From)
	case !i.cfg.Proxy.Synced():
		because("not everything is in the kernel yet")
	}
	if last := s.Syncs.Last; last != nil && last.Error != "" {
		because("the last sync failed, and is tried again: %s", last.Error)
	}
	if i.cfg.Proxy.Synced() && !i.cfg.Health.Healthy() {
		because("a change has waited to get into the kernel for %s", time.Since(s.Syncs.WaitingSince).Round(time.Second))
	}
	for _, a := range s.SetAside {
		name := "Service " + a.Service
		if a.Service == "" {
			name = "the service CIDRs"
		}
		because("the kernel refused %s: %s", name, a.Reason)
	}
	if s.DNS != nil && !(s.DNS.Serving && s.DNS.Alive) {
		because("DNS does not answer: %s", s.DNS.Reason)
	}
	if n := len(s.Conflicts); n > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s claimed by several Services; the oldest has it", plural(n, "frontend is", "frontends are")))
	}
	s.Healthy = len(s.Reasons) == 0
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// memory returns what the process uses, without stopping it.
func memory() api.Memory {
	const heap = "/memory/classes/heap/objects:bytes"
	sample := []metrics.Sample{{Name: heap}}
	metrics.Read(sample)
	m := api.Memory{Heap: sample[0].Value.Uint64()}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			pages, _ := strconv.ParseUint(fields[1], 10, 64)
			m.Resident = pages * uint64(os.Getpagesize())
		}
	}
	return m
}

func frontendOf(f dataplane.Frontend) api.Frontend {
	return api.Frontend{Address: f.Addr, Port: f.Port, Protocol: endpoints.Protocol(f.Protocol).String()}
}
