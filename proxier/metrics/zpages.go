package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/component-base/metrics"
)

// The pages /statusz and /flagz of Kubernetes' components (KEP-4827, KEP-4828). Their code is in
// k8s.io/apiserver, which is far too much for a node's proxy; this serves the same: text for people by
// default, and the API objects of config.k8s.io as JSON for who asks for them by
//
//	Accept: application/json;v=v1beta1;g=config.k8s.io;as=Statusz
//
// YAML and CBOR are not served.

const zpagesGroup = "config.k8s.io"

// zpagesVersions are those that can be asked for. Their fields are the same.
var zpagesVersions = []string{"v1beta1", "v1alpha1"}

// object is what the pages' API objects begin with.
type object struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

type statuszObject struct {
	object
	StartTime     string   `json:"startTime"` // RFC 3339, whole seconds
	UptimeSeconds int64    `json:"uptimeSeconds"`
	GoVersion     string   `json:"goVersion,omitempty"`
	BinaryVersion string   `json:"binaryVersion"`
	Paths         []string `json:"paths"`
}

type flagzObject struct {
	object
	Flags map[string]string `json:"flags,omitempty"`
}

// statusz tells about the process and which other pages there are.
func statusz(c Config, m *listingMux) http.Handler {
	return zpage("Statusz", func(version string) (any, string) {
		started := processStart()
		up := max(0, time.Since(started)).Truncate(time.Second)
		o := statuszObject{
			object:        newObject("Statusz", version, c.Component),
			StartTime:     started.UTC().Format(time.RFC3339),
			UptimeSeconds: int64(up.Seconds()),
			GoVersion:     runtime.Version(),
			BinaryVersion: c.Version,
			Paths:         roots(m.paths),
		}
		return o, fmt.Sprintf("%s\nStarted: %s\nUp: %s\nGo version: %s\nBinary version: %s\nPaths: %s\n",
			header(c.Component, "statusz"), started.Format(time.UnixDate), up, o.GoVersion, o.BinaryVersion, strings.Join(o.Paths, " "))
	})
}

// flagz tells the flags and their values.
func flagz(component string, flags *pflag.FlagSet) http.Handler {
	return zpage("Flagz", func(version string) (any, string) {
		values := map[string]string{}
		flags.VisitAll(func(f *pflag.Flag) {
			values[f.Name] = f.Value.String()
			if len(f.Annotations["classified"]) > 0 {
				values[f.Name] = "CLASSIFIED"
			}
		})
		var b strings.Builder
		b.WriteString(header(component, "flagz") + "\n")
		for _, name := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(&b, "%s=%s\n", name, values[name])
		}
		return flagzObject{object: newObject("Flagz", version, component), Flags: values}, b.String()
	})
}

func newObject(kind, version, name string) (o object) {
	o.Kind, o.APIVersion = kind, zpagesGroup+"/"+version
	o.Metadata.Name = name
	return o
}

func header(component, page string) string {
	return fmt.Sprintf("%s %s\nFor people: the format of this text may change at any time.\n", component, page)
}

// zpage serves a page in the form that is asked for. The function gives it as an object of a version,
// and as text.
func zpage(kind string, page func(version string) (any, string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		version, ok := negotiate(r.Header.Get("Accept"), kind)
		object, said := page(version)
		switch {
		case !ok:
			plain(w, http.StatusNotAcceptable, fmt.Sprintf("text/plain and application/json;v=%s;g=%s;as=%s are served here",
				zpagesVersions[0], zpagesGroup, kind))
		case version == "":
			plain(w, http.StatusOK, said)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_ = json.NewEncoder(w).Encode(object)
		}
	})
}

// negotiate returns the version of the first form in an Accept header that is served, "" for text.
// A header without any is text too. Weights (q) are not looked at.
func negotiate(accept, kind string) (version string, ok bool) {
	if strings.TrimSpace(accept) == "" {
		return "", true
	}
	for form := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(form)
		switch {
		case err != nil:
		case media == "*/*" || media == "text/*" || media == "text/plain":
			return "", true
		case media == "application/json" && params["g"] == zpagesGroup && params["as"] == kind &&
			slices.Contains(zpagesVersions, params["v"]):
			return params["v"], true
		}
	}
	return "", false
}

// roots returns the first elements of paths, sorted, each once.
func roots(paths []string) []string {
	var list []string
	for _, p := range paths {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		list = append(list, "/"+first)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// processStart returns when the process was started; now if the system does not tell.
func processStart() time.Time {
	seconds, err := metrics.GetProcessStart()
	if err != nil {
		return time.Now()
	}
	return time.Unix(0, int64(seconds*1e9))
}
