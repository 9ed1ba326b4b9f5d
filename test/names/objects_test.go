//go:build linux

package names

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/kubelab"
)

// object is a Namespace, a Service or an EndpointSlice.
type object interface {
	runtime.Object
	metav1.Object
}

// source is where weir has its objects from.
type source interface {
	put(t *testing.T, o object) // creates or updates
	remove(t *testing.T, o object)
	flags(t *testing.T) []string // of weir dns
}

// readObjects reads a file of manifests.
func readObjects(t *testing.T, path string) (objects []object) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for part := range bytes.SplitSeq(b, []byte("\n---\n")) {
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(part, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, part)
		}
		objects = append(objects, o.(object))
	}
	return objects
}

// folder is a directory of manifests, a file for each object.
type folder string

func (f folder) flags(*testing.T) []string { return []string{"--manifests", string(f)} }

func (f folder) path(o object) string {
	return filepath.Join(string(f), strings.ToLower(fmt.Sprintf("%T-%s-%s.yaml", o, o.GetNamespace(), o.GetName()))[1:])
}

func (f folder) put(t *testing.T, o object) {
	t.Helper()
	kinds, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		t.Fatal(err)
	}
	o = o.DeepCopyObject().(object)
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	b, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	// A rename is atomic: half a file is no manifest.
	tmp := filepath.Join(t.TempDir(), "object")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, f.path(o)); err != nil {
		t.Fatal(err)
	}
}

func (f folder) remove(t *testing.T, o object) {
	t.Helper()
	if err := os.Remove(f.path(o)); err != nil {
		t.Fatal(err)
	}
}

// api is an API server.
type api struct {
	*kubelab.Cluster
	client kubernetes.Interface
}

func newAPI(t *testing.T) api {
	c := apiServer(t)
	return api{c, c.Client()}
}

// flags returns what makes weir a ServiceAccount that may do what docs/dns.md says.
func (a api) flags(t *testing.T) []string {
	t.Helper()
	const name = "weir-dns"
	ctx := t.Context()
	meta := metav1.ObjectMeta{Name: name}
	watch := []string{"list", "watch"}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services", "namespaces"}, Verbs: watch},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: watch},
	}}
	config := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"kube-dns"}, Verbs: watch},
	}}
	who := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name}}
	ref := func(kind string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
	}
	create := metav1.CreateOptions{}
	var errs [5]error
	_, errs[0] = a.client.RbacV1().ClusterRoles().Create(ctx, role, create)
	_, errs[1] = a.client.RbacV1().Roles(metav1.NamespaceSystem).Create(ctx, config, create)
	_, errs[2] = a.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: who, RoleRef: ref("ClusterRole")}, create)
	_, errs[3] = a.client.RbacV1().RoleBindings(metav1.NamespaceSystem).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: who, RoleRef: ref("Role")}, create)
	_, errs[4] = a.client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Create(ctx, &v1.ServiceAccount{ObjectMeta: meta}, create)
	for _, err := range errs {
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	token, err := a.client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, name, &authv1.TokenRequest{}, create)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := clientcmd.LoadFromFile(a.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig.AuthInfos["user"].Token = token.Status.Token
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, path); err != nil {
		t.Fatal(err)
	}
	a.waitAllowed(t, path)
	return []string{"--kubeconfig", path}
}

// waitAllowed waits until the API server has taken in what a user may do: that takes it a moment.
func (a api) waitAllowed(t *testing.T, kubeconfig string) {
	t.Helper()
	rest, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{Limit: 1})
		if err == nil {
			_, err = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=kube-dns"})
		}
		return err
	})
}

func (a api) put(t *testing.T, o object) {
	t.Helper()
	if err := a.try(t.Context(), o); err != nil {
		t.Fatalf("put %T %s: %v", o, o.GetName(), err)
	}
}

func (a api) try(ctx context.Context, o object) (err error) {
	o = o.DeepCopyObject().(object)
	switch o := o.(type) {
	case *v1.Namespace:
		_, err = a.client.CoreV1().Namespaces().Create(ctx, o, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
	case *v1.Service:
		services := a.client.CoreV1().Services(o.Namespace)
		var old *v1.Service
		if old, err = services.Get(ctx, o.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			_, err = services.Create(ctx, o, metav1.CreateOptions{})
		} else if err == nil {
			o.ResourceVersion = old.ResourceVersion
			_, err = services.Update(ctx, o, metav1.UpdateOptions{})
		}
	case *discoveryv1.EndpointSlice:
		slices := a.client.DiscoveryV1().EndpointSlices(o.Namespace)
		if _, err = slices.Create(ctx, o, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			_, err = slices.Update(ctx, o, metav1.UpdateOptions{})
		}
	}
	return err
}

func (a api) remove(t *testing.T, o object) {
	t.Helper()
	ctx := t.Context()
	var err error
	switch o := o.(type) {
	case *v1.Namespace:
		// There is no controller that would empty it and let it go.
		if err = a.client.CoreV1().Namespaces().Delete(ctx, o.Name, metav1.DeleteOptions{}); err != nil {
			break
		}
		var now *v1.Namespace
		if now, err = a.client.CoreV1().Namespaces().Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			now.Spec.Finalizers = nil
			_, err = a.client.CoreV1().Namespaces().Finalize(ctx, now, metav1.UpdateOptions{})
		}
	case *v1.Service:
		err = a.client.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	case *discoveryv1.EndpointSlice:
		err = a.client.DiscoveryV1().EndpointSlices(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatalf("remove %T %s: %v", o, o.GetName(), err)
	}
}

// onEach runs a test with each source, which has the objects of dns/testdata/cluster.
func onEach(t *testing.T, run func(t *testing.T, from source)) {
	if testing.Short() {
		t.Skip("-short")
	}
	t.Run("manifests", func(t *testing.T) { run(t, withChecklist(t, folder(t.TempDir()))) })
	t.Run("API server", func(t *testing.T) { run(t, withChecklist(t, newAPI(t))) })
}

func withChecklist(t *testing.T, s source) source {
	for _, o := range readObjects(t, "../../dns/testdata/cluster/services.yaml") {
		s.put(t, o)
	}
	return s
}

// timed logs how long something took.
func timed(t *testing.T, what string, since time.Time) {
	t.Helper()
	t.Logf("%s after %s", what, time.Since(since).Round(time.Millisecond))
}
