package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/weir-project/weir/internal/docs"
)

// fieldsWithoutFlag says what the fields of the file do that no flag stands for.
var fieldsWithoutFlag = map[string]string{
	"clientConnection.acceptContentTypes": "Media types of answers of the API server. Empty: the client's choice.",
	"nftables.masqueradeBit":              "Without effect: no packet is marked.",
	"portRange":                           "Without effect.",
	"windowsRunAsService":                 "Without effect: for Windows.",
	"winkernel":                           "Without effect: for Windows.",
	"logging":                             "As the flags for logging.",
}

// TestFieldsReference holds docs/configuration.md against the fields of kube-proxy's file.
func TestFieldsReference(t *testing.T) {
	flags := New().proxyFlags
	var b strings.Builder
	b.WriteString("| field | flag | what it does |\n|---|---|---|\n")
	for _, path := range fieldPaths(reflect.TypeFor[v1alpha1.KubeProxyConfiguration](), "") {
		text, ok := fieldsWithoutFlag[path]
		flag := ""
		if name := flagOf[path]; name != "" && !ok {
			f := flags.Lookup(name)
			if f == nil {
				f = New().ownFlags.Lookup(name)
			}
			if f == nil {
				t.Errorf("%s: there is no flag --%s", path, name)
				continue
			}
			flag, text, ok = "`--"+name+"`", f.Usage, true
		}
		if !ok {
			t.Errorf("nothing says what the field %s does", path)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", path, flag, docs.Cell(text))
	}
	docs.Check(t, "configuration.md", "fields", b.String())
}

// fieldPaths returns the paths of a struct's fields in JSON, without those of TypeMeta and of what is
// explained as a whole.
func fieldPaths(of reflect.Type, prefix string) (paths []string) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta]():
			continue
		case name == "":
			paths = append(paths, fieldPaths(f.Type, prefix)...)
			continue
		}
		name = prefix + name
		_, whole := fieldsWithoutFlag[name]
		if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[metav1.Duration]() && !whole {
			paths = append(paths, fieldPaths(f.Type, name+".")...)
			continue
		}
		paths = append(paths, name)
	}
	return paths
}
