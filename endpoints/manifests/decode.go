package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/kube"
)

// object is one API object of a file, as a value for the sink.
type object struct {
	id     id
	line   int
	source string // file:line
	uid    string

	// One of these, according to id.kind. A service, slice or pod that is not for us has none, but still
	// hides the same object in later files.
	service *endpoints.Service
	slice   *endpoints.Slice
	node    *endpoints.Node
	pod     *endpoints.Pod
	cidrs   []netip.Prefix
}

// id is what makes an object the same object.
type id struct {
	kind string
	name endpoints.Name
}

// content is what a file says.
type content struct {
	objects  []object
	problems []endpoints.Problem
	ignored  []string // kinds that are none of our business, with their lines
}

// syntaxError is what makes a whole file unusable.
type syntaxError struct {
	line int
	err  error
}

func (e *syntaxError) Error() string { return e.err.Error() }

// decoder reads one file.
type decoder struct {
	path string
	dns  bool   // is read for
	pods string // the node whose pods are read; "": none
	line int    // of the current document
	out  content
}

// decode reads the objects of a file. It returns a *syntaxError if it cannot tell what the file
// says. What can be read but makes no sense is among the problems. pods is the node whose pods are
// read; "": nobody's are.
func decode(path string, data []byte, dns bool, pods string) (content, error) {
	d := decoder{path: path, dns: dns, pods: pods}
	for _, doc := range documents(data) {
		d.line = doc.line
		raw, err := d.toJSON(doc.text)
		if err == nil {
			err = d.object(raw)
		}
		if err != nil {
			var at *syntaxError
			if !errors.As(err, &at) {
				err = &syntaxError{d.line, err}
			}
			return content{}, err
		}
	}
	return d.out, nil
}

// document is one YAML document of a file.
type document struct {
	text []byte
	line int // the first that has anything in it, from 1
}

// documents cuts a file at the lines that separate YAML documents. Those without content are left
// out.
func documents(data []byte) []document {
	var list []document
	var current document
	flush := func() {
		if current.line > 0 {
			list = append(list, current)
		}
		current = document{}
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			flush()
			line = append([]byte("   "), rest...) // "--- {kind: Service}" begins on its separator
		} else if bytes.Equal(bytes.TrimRight(line, " \t\r\n"), []byte("...")) {
			flush()
			continue
		}
		if text := bytes.TrimSpace(line); current.line == 0 && len(text) > 0 && text[0] != '#' {
			current.line = number
		}
		if current.line > 0 {
			current.text = append(current.text, line...)
		}
	}
	flush()
	return list
}

// lineInError finds the line in an error of the YAML library.
var lineInError = regexp.MustCompile(`\bline (\d+)(: )?`)

// toJSON converts a document.
func (d *decoder) toJSON(text []byte) ([]byte, error) {
	if json.Valid(text) {
		return text, nil
	}
	raw, strictErr := yaml.YAMLToJSONStrict(text)
	if strictErr == nil {
		return raw, nil
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, d.located(err)
	}
	// A key that is there twice: the last one counts, as it does for kubectl.
	e := d.located(strictErr)
	d.problem("Manifest", endpoints.Name{Name: filepath.Base(d.path)}, "", e.err.Error(), e.line)
	return raw, nil
}

// located takes the line out of an error of the YAML library, and makes it one of the file.
func (d *decoder) located(err error) *syntaxError {
	line := d.line
	text := err.Error()
	if m := lineInError.FindStringSubmatchIndex(text); m != nil {
		if n, err := strconv.Atoi(text[m[2]:m[3]]); err == nil && n > 0 {
			line += n - 1
		}
		text = text[:m[0]] + text[m[1]:]
	}
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:\n", "  "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return &syntaxError{line, errors.New(strings.TrimSpace(text))}
}

func (d *decoder) problem(kind string, name endpoints.Name, field, reason string, line int) {
	d.out.problems = append(d.out.problems, endpoints.Problem{
		Kind: kind, Object: name, Field: field, Reason: reason, Source: d.at(line),
	})
}

func (d *decoder) at(line int) string { return fmt.Sprintf("%s:%d", d.path, line) }

// object reads an object, or the items of a list.
func (d *decoder) object(raw []byte) error {
	if string(bytes.TrimSpace(raw)) == "null" {
		return nil
	}
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &head); err != nil {
		return err
	}
	switch head.Kind {
	case "":
		return errors.New("there is no kind")
	case "List", "ServiceList", "EndpointSliceList", "NodeList", "NamespaceList", "PodList", "ServiceCIDRList":
		return d.items(head.TypeMeta, head.Items)
	}
	return d.typed(head.TypeMeta, raw)
}

// items reads the items of a list, which may leave out their kind if it is a list of one kind.
func (d *decoder) items(list metav1.TypeMeta, items []json.RawMessage) error {
	for _, raw := range items {
		var head metav1.TypeMeta
		err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &head)
		if kind, ok := strings.CutSuffix(list.Kind, "List"); err == nil && ok && kind != "" && head.Kind == "" {
			err = d.typed(metav1.TypeMeta{Kind: kind, APIVersion: list.APIVersion}, raw)
		} else if err == nil {
			err = d.object(raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// versions has the API version of each kind that we read.
var versions = map[string]string{
	"Service":       "v1",
	"Node":          "v1",
	"Namespace":     "v1",
	"Pod":           "v1",
	"EndpointSlice": discoveryv1.SchemeGroupVersion.String(),
	"ServiceCIDR":   networkingv1.SchemeGroupVersion.String(),
}

func groupOf(version string) string {
	group, _, ok := strings.Cut(version, "/")
	if !ok {
		return "" // v1
	}
	return group
}

// typed reads an object of a known type.
func (d *decoder) typed(t metav1.TypeMeta, raw []byte) error {
	version, known := versions[t.Kind]
	switch {
	case !known || groupOf(version) != groupOf(t.APIVersion) || t.Kind == "Namespace" && !d.dns,
		t.Kind == "Pod" && d.pods == "":
		d.out.ignored = append(d.out.ignored, fmt.Sprintf("%s (line %d)", t.Kind, d.line))
		return nil
	case version != t.APIVersion:
		d.problem(t.Kind, endpoints.Name{}, "apiVersion", fmt.Sprintf("%q is not %q", t.APIVersion, version), d.line)
		return nil
	}
	o := object{id: id{kind: t.Kind}, line: d.line, source: d.at(d.line)}
	switch t.Kind {
	case "Service":
		return read(d, raw, &o, &v1.Service{}, func(s *v1.Service) (problems []endpoints.Problem) {
			namespaced(&s.ObjectMeta)
			d.checkClusterIP(s)
			if d.dns {
				o.service, problems = kube.DNSServiceFrom(s)
			} else {
				o.service, problems = kube.ServiceFrom(s)
			}
			return problems
		})
	case "EndpointSlice":
		return read(d, raw, &o, &discoveryv1.EndpointSlice{}, func(s *discoveryv1.EndpointSlice) (problems []endpoints.Problem) {
			namespaced(&s.ObjectMeta)
			if d.dns {
				o.slice, problems = kube.DNSSliceFrom(s)
			} else {
				o.slice, problems = kube.SliceFrom(s)
			}
			return problems
		})
	case "Namespace":
		return read(d, raw, &o, &v1.Namespace{}, func(*v1.Namespace) []endpoints.Problem { return nil })
	case "Pod":
		return read(d, raw, &o, &v1.Pod{}, func(p *v1.Pod) (problems []endpoints.Problem) {
			namespaced(&p.ObjectMeta)
			if p.Spec.NodeName == d.pods {
				o.pod, problems = kube.PodFrom(p)
			}
			return problems
		})
	case "Node":
		return read(d, raw, &o, &v1.Node{}, func(n *v1.Node) (problems []endpoints.Problem) {
			o.node, problems = kube.NodeFrom(n)
			return problems
		})
	}
	return read(d, raw, &o, &networkingv1.ServiceCIDR{}, func(c *networkingv1.ServiceCIDR) (problems []endpoints.Problem) {
		o.cidrs, problems = kube.ServiceCIDRsFrom(c)
		return problems
	})
}

// read decodes raw into an API object, converts it, and keeps what comes out. Unknown and repeated
// fields are problems, but do no harm; a field of the wrong type makes the file unusable.
func read[T any, P interface {
	*T
	metav1.Object
}](d *decoder, raw []byte, o *object, into P, convert func(P) []endpoints.Problem) error {
	unknown, err := kjson.UnmarshalStrict(raw, into)
	if err != nil {
		return err
	}
	if into.GetName() == "" {
		d.problem(o.id.kind, endpoints.Name{Namespace: into.GetNamespace()}, "metadata.name", "there is none", d.line)
		return nil
	}
	problems := convert(into)
	o.id.name = endpoints.Name{Namespace: into.GetNamespace(), Name: into.GetName()}
	o.uid = string(into.GetUID())
	for _, err := range unknown {
		problems = append(problems, endpoints.Problem{Kind: o.id.kind, Object: o.id.name, UID: o.uid, Field: "", Reason: err.Error()})
	}
	for _, p := range problems {
		p.Source = o.source
		d.out.problems = append(d.out.problems, p)
	}
	d.out.objects = append(d.out.objects, *o)
	return nil
}

// namespaced fills in the namespace that the API server would be told to use.
func namespaced(m *metav1.ObjectMeta) {
	if m.Namespace == "" {
		m.Namespace = metav1.NamespaceDefault
	}
}

// checkClusterIP tells if the two fields for the same thing disagree, which the API does not let
// through.
func (d *decoder) checkClusterIP(s *v1.Service) {
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] != s.Spec.ClusterIP {
		d.problem("Service", endpoints.Name{Namespace: s.Namespace, Name: s.Name}, "spec.clusterIP",
			fmt.Sprintf("%s is not spec.clusterIPs[0], %s, which counts", s.Spec.ClusterIP, s.Spec.ClusterIPs[0]), d.line)
	}
}
