package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/deploy/tools/image"
	"github.com/weir-project/weir/deploy/tools/manifests"
	"github.com/weir-project/weir/internal/netlab"
)

// rootfs is the root file system of the image, once TestMain has built it.
var rootfs string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) (code int) {
	flag.Parse()
	if netlab.Available() != nil || testing.Short() {
		return m.Run() // what needs a lab skips
	}
	klog.SetLogger(klog.Logger{}) // client-go has much to say about an API server that is closed
	dir, err := os.MkdirTemp("", "weir-cluster-")
	if err == nil {
		defer os.RemoveAll(dir)
		rootfs = filepath.Join(dir, "rootfs")
		err = errors.Join(os.Mkdir(rootfs, 0o755), unpackImage(rootfs))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// unpackImage builds the image for this machine and unpacks it.
func unpackImage(dir string) error {
	tree, err := manifests.Dir()
	if err != nil {
		return err
	}
	index, err := image.Build(context.Background(), image.Config{
		Source: filepath.Join(tree, "../.."), Version: "test", Created: time.Unix(0, 0), Arches: []string{runtime.GOARCH}})
	if err != nil {
		return err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var img v1.Image
	if img, err = index.Image(list.Manifests[0].Digest); err != nil {
		return err
	}
	return image.Unpack(img, dir)
}
