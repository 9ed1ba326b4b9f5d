package config

import (
	"bufio"
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	componentbase "k8s.io/component-base/config/v1alpha1"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

const kind = "KubeProxyConfiguration"

// decoder reads YAML or JSON. It tells of unknown and duplicate fields and goes on without them.
var decoder = func() *json.Serializer {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err) // the type registered twice: a mistake in this function
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
}()

// decode reads a configuration file. What it had to overlook is in the warnings. The error is an
// *Error if it is known which fields are at fault.
func decode(data []byte) (*v1alpha1.KubeProxyConfiguration, []Warning, error) {
	first, more, err := firstDocument(data)
	if err != nil {
		return nil, nil, err
	}
	var warnings []Warning
	if more {
		warnings = append(warnings, "only the first YAML document is read")
	}
	obj, gvk, err := decoder.Decode(first, nil, nil)
	if strict, ok := runtime.AsStrictDecodingError(err); ok && obj != nil {
		var overlooked []string
		for _, e := range strict.Errors() {
			text := strings.Join(strings.Fields(e.Error()), " ")
			overlooked = append(overlooked, strings.TrimPrefix(text, "yaml: unmarshal errors: "))
		}
		warnings = append(warnings, Warning("overlooked: "+strings.Join(overlooked, ", ")))
		err = nil
	}
	switch {
	case runtime.IsMissingKind(err), runtime.IsMissingVersion(err), runtime.IsNotRegisteredError(err):
		return nil, nil, fmt.Errorf("apiVersion and kind must be %s and %s, not %s", v1alpha1.SchemeGroupVersion, kind, kindOf(gvk))
	case err != nil:
		return nil, nil, explain(first, err)
	}
	c, ok := obj.(*v1alpha1.KubeProxyConfiguration)
	if !ok {
		return nil, nil, fmt.Errorf("kind must be %s, not %s", kind, kindOf(gvk))
	}
	return c, warnings, nil
}

// explain finds out which fields made a document undecodable, as err does not always say, and
// never all of them: it decodes every value by itself.
func explain(doc []byte, err error) error {
	var values map[string]any
	if yaml.Unmarshal(doc, &values) != nil {
		return err
	}
	var faults field.ErrorList
	for _, v := range leaves(nil, values) {
		alone := any(v.value)
		for _, key := range slices.Backward(v.path) {
			alone = map[string]any{key: alone}
		}
		data, encodeErr := yaml.Marshal(alone)
		if encodeErr != nil {
			continue
		}
		into := schema.GroupVersionKind{Group: v1alpha1.GroupName, Version: "v1alpha1", Kind: kind}
		if _, _, err := decoder.Decode(data, &into, nil); err != nil && !runtime.IsStrictDecodingError(err) {
			faults = append(faults, field.Invalid(field.NewPath(v.path[0], v.path[1:]...), v.value, reason(err)))
		}
	}
	if len(faults) == 0 {
		return err
	}
	return &Error{Faults: faults}
}

// reason is a decoding error without the names of Go types.
func reason(err error) string {
	var mismatch *stdjson.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return fmt.Sprintf("must be %s, not %s", wanted(mismatch.Type.Kind()), mismatch.Value)
	}
	return err.Error()
}

// wanted names a kind of value as a writer of YAML knows it.
func wanted(kind reflect.Kind) string {
	switch kind {
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint32:
		return "a whole number, not negative"
	case reflect.Float32:
		return "a number"
	default:
		return "text"
	}
}

// leaf is a value of a document that is no mapping.
type leaf struct {
	path  []string
	value any
}

// leaves returns the leaves below path, in the order of their names.
func leaves(path []string, value any) []leaf {
	m, ok := value.(map[string]any)
	if !ok || len(m) == 0 {
		return []leaf{{path, value}}
	}
	var list []leaf
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, leaves(append(path[:len(path):len(path)], key), m[key])...)
	}
	return list
}

func kindOf(gvk *schema.GroupVersionKind) string {
	if gvk == nil || gvk.Empty() {
		return "missing"
	}
	return fmt.Sprintf("%q and %q", gvk.GroupVersion(), gvk.Kind)
}

// firstDocument returns the first YAML document that is not empty, and whether there are more.
func firstDocument(data []byte) (first []byte, more bool, err error) {
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return first, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		if isBlank(doc) {
			continue
		}
		if first != nil {
			return first, true, nil
		}
		first = bytes.Clone(doc)
	}
}

// isBlank reports whether a YAML document has nothing but comments and document marks.
func isBlank(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// Write writes the configuration to the file that WriteConfigTo names.
func (c *Config) Write() error {
	data, err := c.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.WriteConfigTo, data, 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// Marshal returns the configuration as a file for --config. It reads back to the same Config,
// together with the flags that stand in a comment at its top: kube-proxy's format has no words for
// them.
func (c *Config) Marshal() ([]byte, error) {
	data, err := yaml.Marshal(c.KubeProxy())
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("# The effective configuration of Weir, for --config.\n")
	if flags := c.ownFlags(); len(flags) > 0 {
		b.WriteString("# To be given beside it:")
		for _, f := range flags {
			b.WriteString(" " + shellQuote(f))
		}
		b.WriteString("\n")
	}
	b.Write(data)
	return b.Bytes(), nil
}

// shellQuote quotes a word for a shell, unless it is plain. The result is one line.
func shellQuote(s string) string {
	switch {
	case strings.ContainsFunc(s, unicode.IsControl):
		return strconv.Quote(s)
	case strings.ContainsAny(s, " '\"\\$`*?[](){}<>|&;#~!"):
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	default:
		return s
	}
}

// ownFlags returns the flags for what kube-proxy's format cannot say.
func (c *Config) ownFlags() []string {
	var flags []string
	add := func(name, value string, set bool) {
		if set {
			flags = append(flags, "--"+name+"="+value)
		}
	}
	add("manifests", c.Source.Manifests, c.Source.Manifests != "")
	add("service-cidr", joined(c.Source.ServiceCIDRs), len(c.Source.ServiceCIDRs) > 0)
	add("master", c.Source.Master, c.Source.Master != "")
	add("node-ip", joined(c.NodeIPs), len(c.NodeIPs) > 1)
	add("reset-stale-tcp", "true", c.ResetStaleTCP)
	add("socket", c.Socket, c.Socket != DefaultSocket)
	add("replace-kube-proxy", "true", c.ReplaceKubeProxy)
	add("sysctl-dir", c.SysctlDir, c.SysctlDir != "")
	return flags
}

func joined[T fmt.Stringer](list []T) string { return strings.Join(texts(list), ",") }

func texts[T fmt.Stringer](list []T) []string {
	var s []string
	for _, v := range list {
		s = append(s, v.String())
	}
	return s
}

// KubeProxy says c in kube-proxy's words, so that both would do the same.
func (c *Config) KubeProxy() *v1alpha1.KubeProxyConfiguration {
	out := &v1alpha1.KubeProxyConfiguration{
		TypeMeta:     metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: kind},
		FeatureGates: c.FeatureGates,
		ClientConnection: componentbase.ClientConnectionConfiguration{
			Kubeconfig:         c.Source.Kubeconfig,
			AcceptContentTypes: c.Source.AcceptContentTypes,
			ContentType:        c.Source.ContentType,
			QPS:                c.Source.QPS,
			Burst:              int32(c.Source.Burst),
		},
		Logging:             c.Logging,
		HealthzBindAddress:  bindText(c.HealthzAddress),
		MetricsBindAddress:  bindText(c.MetricsAddress),
		BindAddressHardFail: c.BindAddressHardFail,
		EnableProfiling:     c.Profiling,
		Mode:                modeNFTables,
		DetectLocalMode:     v1alpha1.LocalMode(c.LocalDetection.Mode),
		DetectLocal: v1alpha1.DetectLocalConfiguration{
			BridgeInterface:     c.LocalDetection.BridgeInterface,
			InterfaceNamePrefix: c.LocalDetection.InterfaceNamePrefix,
		},
		ClusterCIDR:       joined(c.LocalDetection.ClusterCIDRs),
		NodePortAddresses: c.NodePortAddresses.texts(),
		OOMScoreAdj:       new(int32(c.OOMScoreAdj)),
		Conntrack:         c.Conntrack.kubeProxy(),
		ConfigSyncPeriod:  duration(c.Source.Resync),
	}
	out.NFTables.MasqueradeAll = c.MasqueradeAll
	out.NFTables.SyncPeriod = duration(c.SyncPeriod)
	out.NFTables.MinSyncPeriod = duration(c.MinSyncPeriod)
	if c.LocalDetection.Mode == DetectNone {
		out.DetectLocalMode = v1alpha1.LocalMode(DetectClusterCIDR) // without a CIDR: None is a word of ours
	}
	if name, err := os.Hostname(); err != nil || c.NodeName != nodeName(name) {
		out.HostnameOverride = c.NodeName // otherwise the file would do for one machine only
	}
	if len(c.NodeIPs) > 0 {
		out.BindAddress = c.NodeIPs[0].String()
	}
	setDefaults(out)
	return out
}

func duration(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }

// bindText is the reverse of parseBind. An empty text would stand for the default.
func bindText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "0.0.0.0:0"
	}
	return a.String()
}

func (n NodePortAddresses) texts() []string {
	s := texts(n.CIDRs)
	if n.Primary {
		s = append([]string{wordPrimary}, s...)
	}
	return s
}

func (c *Conntrack) kubeProxy() v1alpha1.KubeProxyConntrackConfiguration {
	return v1alpha1.KubeProxyConntrackConfiguration{
		MaxPerCore:            new(int32(c.MaxPerCore)),
		Min:                   new(int32(c.Min)),
		TCPEstablishedTimeout: new(duration(c.TCPEstablishedTimeout)),
		TCPCloseWaitTimeout:   new(duration(c.TCPCloseWaitTimeout)),
		TCPBeLiberal:          c.TCPBeLiberal,
		UDPTimeout:            duration(c.UDPTimeout),
		UDPStreamTimeout:      duration(c.UDPStreamTimeout),
	}
}
