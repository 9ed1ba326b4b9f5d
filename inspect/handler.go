package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
)

// ReadOnly serves what changes nothing and costs little:
//
//	GET /v1/status      Status
//	GET /v1/services    ServiceList; ?namespace= and ?name= narrow it, ?endpoints=true adds the endpoints,
//	                    which are there anyway with a name
//	GET /v1/trace       Trace; ?from=, ?protocol= and ?to= as weir trace takes them
//	GET /v1/events      EventList; ?after=ID; with ?follow=true an Event a line as they come
func (i *Inspector) ReadOnly() http.Handler {
	mux := http.NewServeMux()
	i.readOnly(mux)
	return mux
}

func (i *Inspector) readOnly(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, i.Status()) })
	mux.HandleFunc("GET /v1/services", i.serveServices)
	mux.HandleFunc("GET /v1/events", i.serveEvents)
	mux.HandleFunc("GET /v1/trace", i.serveTrace)
}

// Handler serves everything: what ReadOnly does, and
//
//	GET  /v1/connections  ConnectionList; ?namespace= and ?name= narrow it
//	GET  /v1/verify       Verification: reads all of our maps
//	POST /v1/verify       the same, and has everything written anew if something is wrong
//	GET  /v1/ruleset      every element of our maps, a line each
//	GET  /v1/debug/PART   one of Config.Debug, as text
func (i *Inspector) Handler() http.Handler {
	mux := http.NewServeMux()
	i.readOnly(mux)
	mux.HandleFunc("GET /v1/connections", i.serveConnections)
	mux.HandleFunc("GET /v1/verify", func(w http.ResponseWriter, r *http.Request) { i.serveVerify(w, r, false) })
	mux.HandleFunc("POST /v1/verify", func(w http.ResponseWriter, r *http.Request) { i.serveVerify(w, r, true) })
	mux.HandleFunc("GET /v1/ruleset", i.serveRuleset)
	mux.HandleFunc("GET /v1/debug/{part}", i.serveDebug)
	return mux
}

// answer sends one object.
func answer(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object) // who asked may be gone
}

// fault is an error with an HTTP status.
type fault struct {
	code int
	text string
}

func (f fault) Error() string { return f.text }

func notFound(format string, args ...any) error {
	return fault{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return fault{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// refuse sends an error.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var f fault
	if errors.As(err, &f) {
		code = f.code
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(api.Error{Meta: meta("Error"), Message: err.Error()})
}

// flag reads a parameter that is true or false.
func flag(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequest("%s=%s: neither true nor false", name, text)
	}
	return on, nil
}

// serveServices streams, since there may be 250,000 endpoints.
func (i *Inspector) serveServices(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	withEndpoints, err := flag(r, "endpoints")
	if err != nil {
		refuse(w, err)
		return
	}
	names, err := i.named(q.Get("namespace"), q.Get("name"))
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	head, _ := json.Marshal(meta("ServiceList"))
	fmt.Fprintf(w, `%s,"items":[`, head[:len(head)-1])
	separator := ""
	each := func(s api.Service) error {
		b, err := json.Marshal(s)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s%s", separator, b)
			separator = ","
		}
		return err
	}
	if names == nil {
		err = i.Services(q.Get("namespace"), withEndpoints, each)
	}
	for _, n := range names {
		if s, ok := i.Service(n, true); ok && err == nil {
			err = each(s)
		}
	}
	if err == nil {
		_, _ = io.WriteString(w, "]}\n")
	}
}

// named returns the Services that are meant; nil: all of a namespace.
func (i *Inspector) named(namespace, name string) ([]endpoints.Name, error) {
	switch {
	case name == "":
		return nil, nil
	case namespace != "":
		n := endpoints.Name{Namespace: namespace, Name: name}
		if i.cfg.Engine.Service(n) == nil {
			return nil, notFound("no Service %s", n)
		}
		return []endpoints.Name{n}, nil
	}
	names := i.Named(name)
	if len(names) == 0 {
		return nil, notFound("no Service %s in any namespace", name)
	}
	return names, nil
}

func (i *Inspector) serveEvents(w http.ResponseWriter, r *http.Request) {
	follow, err := flag(r, "follow")
	if err != nil {
		refuse(w, err)
		return
	}
	after := uint64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			refuse(w, badRequest("after=%s: no ID of an event", text))
			return
		}
	}
	if !follow {
		answer(w, i.Events(after))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control, out := http.NewResponseController(w), json.NewEncoder(w)
	_ = control.Flush() // so that who asked knows that it is answered
	_ = i.Follow(r.Context(), after, func(e api.Event) error {
		return errors.Join(out.Encode(e), control.Flush())
	})
}

func (i *Inspector) serveTrace(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	question, err := ParseQuestion(q.Get("from"), q.Get("protocol"), q.Get("to"))
	if err != nil {
		refuse(w, badRequest("%v", err))
		return
	}
	trace, err := i.Trace(question)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, trace)
}

func (i *Inspector) serveConnections(w http.ResponseWriter, r *http.Request) {
	names, err := i.named(r.URL.Query().Get("namespace"), r.URL.Query().Get("name"))
	if err != nil {
		refuse(w, err)
		return
	}
	list, err := i.Connections(r.Context(), names)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, list)
}

func (i *Inspector) serveVerify(w http.ResponseWriter, r *http.Request, repair bool) {
	v, err := i.Verify(r.Context(), repair)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, v)
}

// serveRuleset streams. An error in the middle of it is the last line.
func (i *Inspector) serveRuleset(w http.ResponseWriter, _ *http.Request) {
	r, err := i.cfg.Kernel.Reader()
	if err != nil {
		refuse(w, err)
		return
	}
	defer r.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	whole, err := r.Each(func(s dataplane.Set, e dataplane.Element) {
		fmt.Fprintf(w, "%s { %s } %s\n", e.Name(s), e.Text(s), e.Comment)
	})
	if !whole || err != nil {
		fmt.Fprintf(w, "# whole: %v, err: %v\n", whole, err)
	}
}
