package config

import (
	_ "embed"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	zpages "k8s.io/component-base/zpages/features"
)

// Feature gates that have an effect here, besides those of logging.
const (
	AllowServiceExternalIPs featuregate.Feature = "AllowServiceExternalIPs" // spec.externalIPs are served
	ComponentFlagz          featuregate.Feature = zpages.ComponentFlagz     // /flagz
	ComponentStatusz        featuregate.Feature = zpages.ComponentStatusz   // /statusz
)

// kubernetesGates are the names of all feature gates of Kubernetes 1.36 and those of kube-proxy
// 1.37, one a line, sorted. kube-proxy takes every one of them, and installers (kind) hand the
// whole cluster's gates to each component.
//
//go:embed gates.txt
var kubernetesGates string

// newGate returns the gates that have an effect here, with their defaults but for those in set.
func newGate(set map[string]bool) (featuregate.MutableVersionedFeatureGate, error) {
	gate := featuregate.NewFeatureGate()
	// Neither alpha nor beta, which AllAlpha and AllBeta would change.
	external := map[featuregate.Feature]featuregate.FeatureSpec{AllowServiceExternalIPs: {Default: true, PreRelease: featuregate.GA}}
	if err := errors.Join(gate.Add(external), zpages.AddFeatureGates(gate), logsapi.AddFeatureGates(gate)); err != nil {
		return nil, err
	}
	// What the gate would log, that a stable feature is set, is no news.
	return gate, gate.SetFromMapWithLogger(logr.Discard(), set)
}

// Enabled reports whether a feature gate that has an effect here is on. It is meant for the start,
// not for every packet.
func (c *Config) Enabled(feature featuregate.Feature) bool {
	gate, err := newGate(c.FeatureGates)
	return err == nil && gate.Enabled(feature)
}

// gates returns those of the wanted feature gates that have an effect.
func (r *resolver) gates(wanted map[string]bool) map[string]bool {
	ours := make(map[featuregate.Feature]featuregate.FeatureSpec)
	if gate, err := newGate(nil); err == nil {
		ours = gate.GetAll()
	}
	var effective map[string]bool
	theirs := strings.Fields(kubernetesGates)
	var idle []string
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		_, isOurs := ours[featuregate.Feature(name)]
		_, isTheirs := slices.BinarySearch(theirs, name)
		switch {
		case isOurs:
			if effective == nil {
				effective = make(map[string]bool)
			}
			effective[name] = wanted[name]
		case isTheirs:
			idle = append(idle, name)
		default:
			r.fault(field.Invalid(r.at("featureGates").Key(name), wanted[name], "no feature gate of this name in Kubernetes 1.36 or 1.37"))
		}
	}
	if len(idle) > 0 {
		r.warn("feature gates without effect: %s", strings.Join(idle, ", "))
	}
	return effective
}
