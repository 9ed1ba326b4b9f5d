package web

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
)

//go:embed page
var files embed.FS

// inspector is what the page shows. An inspect.Inspector is one.
type inspector interface {
	Status() api.Status
	Events(after uint64) api.EventList
	Service(name endpoints.Name, withEndpoints bool) (api.Service, bool)
}

// Config says what to show. Inspector and Services are required.
type Config struct {
	Inspector inspector
	// Services returns the names of all Services, sorted.
	Services func() []endpoints.Name
	// DNS returns what the DNS server counts; nil, or the result nil: there is none.
	DNS func() *dns.Stats
	// Loopback says that it is served at an address that only this machine reaches. Requests under
	// foreign names are then refused.
	Loopback bool
}

// Handler returns what serves the page.
func Handler(c Config) http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // no such directory: a mistake in the line above
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /data/overview", answer(c.overview))
	mux.HandleFunc("GET /data/services", answer(c.services))
	mux.HandleFunc("GET /data/service", answer(c.service))
	return guard{mux, c.Loopback}
}

// errNotFound and errBadRequest say with which status a request fails.
var (
	errNotFound   = errors.New("there is no such Service")
	errBadRequest = errors.New("no number")
)

// answer sends what f returns.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		object, err := f(r)
		switch {
		case errors.Is(err, errNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(object) // who asked may be gone
		}
	}
}

// number reads a parameter, 0 without it.
func number(r *http.Request, name string) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s=%s: %w", name, text, errBadRequest)
	}
	return n, nil
}

// shownSyncs is how many syncs the page draws.
const shownSyncs = 120

// Overview is all but the Services.
type Overview struct {
	Time   time.Time  `json:"time"` // of the answer
	Status api.Status `json:"status"`
	Syncs  []Sync     `json:"syncs"` // latest, oldest first
	DNS    *DNS       `json:"dns,omitempty"`
}

// Sync is one sync. Durations are in seconds.
type Sync struct {
	ID       uint64      `json:"id"`
	Time     time.Time   `json:"time"`
	Duration api.Seconds `json:"duration"`
	Delay    api.Seconds `json:"delay,omitempty"`
	Error    string      `json:"error,omitempty"`
	What     string      `json:"what"`
}

// DNS is what the server has counted since it was started, by zone and by response code.
type DNS struct {
	Queries     map[string]uint64 `json:"queries"`
	Responses   map[string]uint64 `json:"responses"`
	Outstanding int               `json:"outstanding"` // wait for an upstream
}

func (c Config) overview(r *http.Request) (any, error) {
	after, err := number(r, "after")
	if err != nil {
		return nil, err
	}
	o := Overview{Time: time.Now(), Status: c.Inspector.Status(), Syncs: []Sync{}}
	events := c.Inspector.Events(after).Items
	for _, e := range events[max(0, len(events)-shownSyncs):] {
		o.Syncs = append(o.Syncs, Sync{e.ID, e.Time, e.Duration, e.Delay, e.Error, what(&e)})
	}
	if c.DNS != nil {
		if stats := c.DNS(); stats != nil {
			o.DNS = counted(stats)
		}
	}
	return o, nil
}

// what says in a few words what a sync was about.
func what(e *api.Event) string {
	if e.Full {
		return "everything"
	}
	if len(e.Changes) == 0 {
		return fmt.Sprintf("%d elements", e.Operations)
	}
	text := e.Changes[0].Service
	if more := e.Services - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func counted(s *dns.Stats) *DNS {
	d := &DNS{Queries: map[string]uint64{}, Responses: map[string]uint64{}, Outstanding: s.Outstanding}
	for _, n := range s.Requests {
		d.Queries[n.Zone] += n.N
	}
	for _, n := range s.Responses {
		d.Responses[n.Label] += n.N
	}
	return d
}

// pageSize is how many Services a page has, and shownEndpoints how many endpoints of a port are listed.
const (
	pageSize       = 100
	shownEndpoints = 100
)

// Page is a part of the list of Services.
type Page struct {
	Total   int   `json:"total"`   // Services
	Matched int   `json:"matched"` // of them, by the filter
	Offset  int   `json:"offset"`  // of the first that is here, among these
	Size    int   `json:"size"`    // how many fit
	Items   []Row `json:"items"`
}

// Row is one Service, in few words.
type Row struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"` // as they are dialled; without node ports
	Ports     []string `json:"ports"`
	Ready     int      `json:"ready"` // endpoints of the port with the most, in the family with the most
	Total     int      `json:"total"`
	Note      string   `json:"note,omitempty"` // why it is not served, or not as asked
}

func (c Config) services(r *http.Request) (any, error) {
	offset, err := number(r, "offset")
	if err != nil {
		return nil, err
	}
	all := c.Services()
	matched := match(all, r.URL.Query().Get("q"))
	p := Page{Total: len(all), Matched: len(matched), Offset: int(min(offset, lastPage(len(matched)))), Size: pageSize, Items: []Row{}}
	for _, name := range matched[p.Offset:min(p.Offset+pageSize, len(matched))] {
		if s, ok := c.Inspector.Service(name, false); ok {
			p.Items = append(p.Items, row(&s))
		}
	}
	return p, nil
}

// lastPage returns where the last page begins.
func lastPage(n int) uint64 { return uint64(max(0, n-1) / pageSize * pageSize) }

// match returns the names that hold every word, in any case. A word with a slash is matched from the
// beginning of the namespace.
func match(names []endpoints.Name, filter string) []endpoints.Name {
	words := strings.Fields(strings.ToLower(filter))
	if len(words) == 0 {
		return names
	}
	var out []endpoints.Name
next:
	for _, n := range names {
		text := n.String()
		for _, w := range words {
			if found := strings.Contains(text, w); !found || strings.Contains(w, "/") && !strings.HasPrefix(text, w) {
				continue next
			}
		}
		out = append(out, n)
	}
	return out
}

func row(s *api.Service) Row {
	out := Row{Namespace: s.Namespace, Name: s.Name, Addresses: []string{}, Ports: []string{}, Note: note(s)}
	seen := map[string]bool{}
	add := func(list *[]string, text string) {
		if !seen[text] {
			seen[text] = true
			*list = append(*list, text)
		}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		port := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort != 0 {
			port += fmt.Sprintf(" (node %d)", p.NodePort)
		}
		add(&out.Ports, port)
		for _, f := range p.Frontends {
			if f.Kind != "NodePort" {
				add(&out.Addresses, f.Address.String())
			}
		}
		if p.Total > out.Total || p.Total == out.Total && p.Ready > out.Ready {
			out.Ready, out.Total = p.Ready, p.Total
		}
	}
	return out
}

// note says why a Service is not served, or not as asked.
func note(s *api.Service) string {
	switch {
	case s.SetAside != nil:
		return "set aside: the kernel refused it"
	case s.NotProxied != "":
		return map[string]string{"Headless": "headless", "ExternalName": "is another name", "OtherProxy": "another proxy's"}[s.NotProxied]
	}
	for i := range s.Ports {
		for _, f := range s.Ports[i].Frontends {
			if f.TakenBy != "" {
				return fmt.Sprintf("%s is taken by %s", f.Address, f.TakenBy)
			}
		}
	}
	return ""
}

// Service is one Service with its endpoints.
type Service struct {
	api.Service
	Places [][]Place `json:"places"` // for each port, where its endpoints are
}

// Place counts the endpoints of a port on one node.
type Place struct {
	Zone  string `json:"zone"` // "": not known
	Node  string `json:"node"` // "": not known
	Here  bool   `json:"here,omitempty"`
	Ready int    `json:"ready"`
	Total int    `json:"total"`
}

func (c Config) service(r *http.Request) (any, error) {
	q := r.URL.Query()
	s, ok := c.Inspector.Service(endpoints.Name{Namespace: q.Get("namespace"), Name: q.Get("name")}, true)
	if !ok {
		return nil, errNotFound
	}
	out := Service{Service: s, Places: [][]Place{}}
	for i := range s.Ports {
		p := &s.Ports[i]
		out.Places = append(out.Places, places(p.Endpoints))
		p.Endpoints = p.Endpoints[:min(len(p.Endpoints), shownEndpoints)]
	}
	return out, nil
}
