package kubelab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes/scheme"
)

// Load writes a population into etcd as the API server would have stored it, some ten times as fast as through
// it. The API server, which runs, hears of it as of everything that is written there. Of the same population
// nothing may be there yet.
func (c *Cluster) Load(ctx context.Context, p Population) error {
	p = p.withDefaults()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	transport := &http.Transport{MaxIdleConnsPerHost: loaders}
	if c.cfg.Host != nil {
		transport.DialContext = c.cfg.Host.Dial
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range loaders {
		wg.Go(func() {
			for ctx.Err() == nil {
				from := int(next.Add(servicesAtOnce)) - servicesAtOnce
				if from >= p.Services {
					return
				}
				if err := c.loadSome(ctx, client, p, p.First+from, min(servicesAtOnce, p.Services-from)); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return nil
}

const (
	loaders        = 4
	servicesAtOnce = 20
	maxOps         = 100 // in one transaction of etcd, whose limit is 128
)

// put is one write in etcd's words; JSON makes base64 of both.
type put struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// loadSome writes n services from the first on, with all that belongs to them.
func (c *Cluster) loadSome(ctx context.Context, client *http.Client, p Population, first, n int) error {
	var puts []put
	for i := first; i < first+n; i++ {
		for _, o := range p.stored(i) {
			value, err := encode(o.object)
			if err != nil {
				return err
			}
			puts = append(puts, put{[]byte("/registry/" + o.key), value})
		}
	}
	for len(puts) > 0 {
		some := min(maxOps, len(puts))
		if err := c.transact(ctx, client, puts[:some]); err != nil {
			return err
		}
		puts = puts[some:]
	}
	return nil
}

// transact has etcd make some writes in one transaction.
func (c *Cluster) transact(ctx context.Context, client *http.Client, puts []put) error {
	type operation struct {
		Put put `json:"requestPut"`
	}
	var txn struct {
		Success []operation `json:"success"`
	}
	for _, p := range puts {
		txn.Success = append(txn.Success, operation{p})
	}
	body, err := json.Marshal(txn)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.etcdURL+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd: %s: %s", resp.Status, text)
	}
	return err
}

// stored is an object and where it is in etcd.
type stored struct {
	key    string
	object runtime.Object
}

// stored returns all that the API server stores for Service i: itself, its address, its slices.
func (p Population) stored(i int) []stored {
	meta := func(m *metav1.ObjectMeta) {
		m.UID, m.CreationTimestamp, m.Generation = uuid.NewUUID(), metav1.NewTime(time.Now()), 1
	}
	s := p.Service(i)
	meta(&s.ObjectMeta)
	s.Spec.Type, s.Spec.SessionAffinity = corev1.ServiceTypeClusterIP, corev1.ServiceAffinityNone
	internal := corev1.ServiceInternalTrafficPolicyCluster
	s.Spec.InternalTrafficPolicy = &internal
	s.TypeMeta = kind(corev1.SchemeGroupVersion, "Service")

	ip := &networkingv1.IPAddress{
		TypeMeta: kind(networkingv1.SchemeGroupVersion, "IPAddress"),
		ObjectMeta: metav1.ObjectMeta{Name: s.Spec.ClusterIP, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
	meta(&ip.ObjectMeta)
	all := []stored{
		{"ipaddresses/" + ip.Name, ip},
		{"services/specs/" + s.Namespace + "/" + s.Name, s},
	}
	for _, slice := range p.Slices(i) {
		meta(&slice.ObjectMeta)
		slice.TypeMeta = kind(discoveryv1.SchemeGroupVersion, "EndpointSlice")
		all = append(all, stored{"endpointslices/" + slice.Namespace + "/" + slice.Name, slice})
	}
	return all
}

func kind(gv schema.GroupVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: gv.String(), Kind: kind}
}

var storage = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// encode returns an object as the API server stores it.
func encode(o runtime.Object) ([]byte, error) {
	var b bytes.Buffer
	err := storage.Encode(o, &b)
	return b.Bytes(), err
}
