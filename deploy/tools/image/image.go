package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Config says what is built.
type Config struct {
	Source   string    // root of the source tree
	Version  string    // for `weir version` and the labels
	Revision string    // commit, for the labels; "": unknown
	Created  time.Time // of everything in the image, in place of the clock
	Arches   []string  // as GOARCH has them; default amd64 and arm64
}

// Paths in the image.
const (
	binaryPath  = "/weir"
	docDir      = "/usr/share/doc/weir"
	licensePath = docDir + "/LICENSE"
	sbomPath    = docDir + "/sbom.spdx.json"
)

// Build builds an image for each architecture, and the index that has them.
func Build(ctx context.Context, cfg Config) (v1.ImageIndex, error) {
	if cfg.Arches == nil {
		cfg.Arches = []string{"amd64", "arm64"}
	}
	cfg.Created = cfg.Created.UTC().Truncate(time.Second)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range cfg.Arches {
		img, err := cfg.build(ctx, arch)
		if err != nil {
			return nil, fmt.Errorf("image for linux/%s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return mutate.Annotations(index, cfg.labels()).(v1.ImageIndex), nil
}

// labels are on the images and, as annotations, on what contains them.
func (cfg *Config) labels() map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       "weir",
		"org.opencontainers.image.description": "Kubernetes Services and DNS on a node, in nftables",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     cfg.Version,
		"org.opencontainers.image.created":     cfg.Created.Format(time.RFC3339),
	}
	if cfg.Revision != "" {
		labels["org.opencontainers.image.revision"] = cfg.Revision
	}
	return labels
}

// build builds the image for one architecture.
func (cfg *Config) build(ctx context.Context, arch string) (v1.Image, error) {
	binary, err := cfg.compile(ctx, arch)
	if err != nil {
		return nil, err
	}
	license, err := os.ReadFile(filepath.Join(cfg.Source, "LICENSE"))
	if err != nil {
		return nil, err
	}
	sbom, err := cfg.sbom(binary)
	if err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	layer, err := cfg.layer([]file{{binaryPath, 0o755, binary}, {licensePath, 0o644, license}, {sbomPath, 0o644, sbom}})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: cfg.Created}, CreatedBy: "weir-image", Comment: "static binary"}})
	if err != nil {
		return nil, err
	}
	// Root: a runtime gives capabilities to no other user. Which ones is up to the manifests.
	img, err = mutate.ConfigFile(img, cfg.configFile(img, arch))
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(img, cfg.labels()).(v1.Image), nil
}

func (cfg *Config) configFile(img v1.Image, arch string) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		c = &v1.ConfigFile{} // cannot be: img is in memory
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: cfg.Created}
	c.Config = v1.Config{Entrypoint: []string{binaryPath}, User: "0:0", WorkingDir: "/", Labels: cfg.labels()}
	return c
}

// file is one file of the image.
type file struct {
	path string
	mode int64
	data []byte
}

// layer packs files, and the directories above them.
func (cfg *Config) layer(files []file) (v1.Layer, error) {
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	made := map[string]bool{"/": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755, ModTime: cfg.Created, Format: tar.FormatPAX})
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, mkdir(path.Dir(f.path)),
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.path[1:], Mode: f.mode, Size: int64(len(f.data)), ModTime: cfg.Created, Format: tar.FormatPAX}))
		_, err := w.Write(f.data)
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	})
}
