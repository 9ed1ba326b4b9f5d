package dns

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Buckets are the upper bounds of the latency histogram, in seconds; what is above the last is
// counted too.
var Buckets = [...]float64{0.00001, 0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192}

// countedTypes are the types of queries that are counted by themselves.
var countedTypes = [...]struct {
	number uint16
	name   string
}{
	{0, "other"}, {typeA, "A"}, {typeAAAA, "AAAA"}, {typeSRV, "SRV"}, {typePTR, "PTR"}, {typeTXT, "TXT"}, {typeNS, "NS"},
	{typeSOA, "SOA"}, {typeCNAME, "CNAME"}, {typeMX, "MX"}, {typeHINFO, "HINFO"}, {typeANY, "ANY"}, {64, "SVCB"}, {65, "HTTPS"},
}

func typeIndex(t uint16) int {
	switch t {
	case typeA:
		return 1
	case typeAAAA:
		return 2
	}
	for i := 3; i < len(countedTypes); i++ {
		if countedTypes[i].number == t {
			return i
		}
	}
	return 0
}

// typeName writes a type for people.
func typeName(t uint16) string {
	if i := typeIndex(t); i > 0 {
		return countedTypes[i].name
	}
	return "TYPE" + strconv.Itoa(int(t))
}

const rcodes = 17

// Transport says how a query came.
type Transport struct {
	TCP  bool
	IPv6 bool
}

// counters are those of one worker, so that counting costs no contention.
type counters struct {
	transport Transport
	requests  [2][len(countedTypes)]atomic.Uint64 // by where: the zone or elsewhere
	responses [2][rcodes]atomic.Uint64
	durations [2][len(Buckets) + 1]atomic.Uint64
	total     [2]atomic.Int64 // nanoseconds
	dropped   atomic.Uint64
	walks     atomic.Uint64
}

// Where a name is.
const (
	inZone = iota
	elsewhere
)

func (c *counters) request(where int, qtype uint16) {
	c.requests[where][typeIndex(qtype)].Add(1)
}

func (c *counters) response(where int, rcode uint16) {
	c.responses[where][min(rcode, rcodes-1)].Add(1)
}

// walk counts an answer that was the end of a walk.
func (c *counters) walk(walked bool) {
	if walked {
		c.walks.Add(1)
	}
}

// took counts n answers that took d each.
func (c *counters) took(where int, d time.Duration, n int) {
	if n == 0 {
		return
	}
	s, i := d.Seconds(), 0
	for i < len(Buckets) && s > Buckets[i] {
		i++
	}
	c.durations[where][i].Add(uint64(n))
	c.total[where].Add(int64(d) * int64(n))
}

// Count is one number of Stats.
type Count struct {
	Transport
	Zone  string // "." for what is not in ours
	Label string // the type of query, or the response code
	N     uint64
}

// Histogram is how long answers took.
type Histogram struct {
	Zone    string
	Counts  [len(Buckets) + 1]uint64 // by bucket, not summed up
	Seconds float64                  // all together
}

// Stats is what a Server has counted.
type Stats struct {
	Requests, Responses []Count
	Durations           []Histogram
	Dropped             uint64 // what was not even a query
	Walks               uint64 // answers that were the end of a search list
	Outstanding         int    // queries that the Forwarder has not answered yet
	Connections         int
}

var rcodeNames = [rcodes]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE", "11", "12", "13", "14", "15", "BADVERS"}

// Stats returns what has been counted so far.
func (s *Server) Stats() Stats {
	st := Stats{Outstanding: s.outstanding.count()}
	requests, responses := map[Count]uint64{}, map[Count]uint64{}
	zones := [2]string{s.cfg.Zone.Domain(), "."}
	var durations [2]Histogram
	s.mu.Lock()
	st.Connections = len(s.conns)
	for _, c := range s.counters {
		st.Dropped += c.dropped.Load()
		st.Walks += c.walks.Load()
		for where, zone := range zones {
			for i := range c.requests[where] {
				requests[Count{c.transport, zone, countedTypes[i].name, 0}] += c.requests[where][i].Load()
			}
			for i := range c.responses[where] {
				responses[Count{c.transport, zone, rcodeNames[i], 0}] += c.responses[where][i].Load()
			}
			for i := range c.durations[where] {
				durations[where].Counts[i] += c.durations[where][i].Load()
			}
			durations[where].Seconds += time.Duration(c.total[where].Load()).Seconds()
			durations[where].Zone = zone
		}
	}
	s.mu.Unlock()
	st.Requests, st.Responses, st.Durations = flatten(requests), flatten(responses), durations[:]
	return st
}

func flatten(m map[Count]uint64) (list []Count) {
	for c, n := range m {
		if c.N = n; n > 0 {
			list = append(list, c)
		}
	}
	return list
}
