package image

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

const tree = "../../.."

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestReproducible builds the image here and in a copy of the tree elsewhere.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	cfg := Config{Source: tree, Version: "v1.2.3", Revision: "abc", Created: created, Arches: []string{runtime.GOARCH}}
	index := build(t, cfg)
	digest := digestOf(t, index)

	cfg.Source = filepath.Join(t.TempDir(), "somewhere/else")
	copyTree(t, cfg.Source)
	t.Setenv("GOFLAGS", "-buildvcs=false -tags=whatever") // neither directory nor environment show
	if again := digestOf(t, build(t, cfg)); again != digest {
		t.Errorf("built elsewhere it is %s, not %s", again, digest)
	}
	cfg.Version = "v1.2.4"
	if other := digestOf(t, build(t, cfg)); other == digest {
		t.Error("another version gives the same digest")
	}
	t.Run("contents", func(t *testing.T) { contents(t, index) })
	t.Run("archive", func(t *testing.T) { archive(t, index, digest) })
}

// TestArches builds for the other architecture.
func TestArches(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	index := build(t, Config{Source: tree, Version: "v1.2.3", Created: created})
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, d := range list.Manifests {
		dir := unpack(t, index, d)
		binary, err := elf.Open(filepath.Join(dir, binaryPath))
		if err != nil {
			t.Fatal(err)
		}
		defer binary.Close()
		if want := machines[d.Platform.Architecture]; binary.Machine != want || d.Platform.OS != "linux" {
			t.Errorf("%s has a binary for %s", d.Platform, binary.Machine)
		}
		if libs, err := binary.ImportedLibraries(); err != nil || len(libs) > 0 {
			t.Errorf("%s: not static: %v, %v", d.Platform, libs, err)
		}
		delete(machines, d.Platform.Architecture)
	}
	if len(machines) > 0 {
		t.Errorf("no image for %v", machines)
	}
}

func build(t *testing.T, cfg Config) v1.ImageIndex {
	t.Helper()
	index, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func digestOf(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// copyTree copies what the image is built from.
func copyTree(t *testing.T, to string) {
	t.Helper()
	cmd := exec.Command("git", "-C", tree, "ls-files", "--cached", "--others", "--exclude-standard")
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSpace(name)
		data, err := os.ReadFile(filepath.Join(tree, name))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func unpack(t *testing.T, index v1.ImageIndex, d v1.Descriptor) string {
	t.Helper()
	img, err := index.Image(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Unpack(img, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// contents looks at what is in an image, and what it says of itself.
func contents(t *testing.T, index v1.ImageIndex) {
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{Entrypoint: []string{"/weir"}, User: "0:0", WorkingDir: "/", Labels: map[string]string{
		"org.opencontainers.image.title":       "weir",
		"org.opencontainers.image.description": "Kubernetes Services and DNS on a node, in nftables",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     "v1.2.3",
		"org.opencontainers.image.revision":    "abc",
		"org.opencontainers.image.created":     "2026-01-02T03:04:05Z",
	}}
	if diff := cmp.Diff(want, c.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Labels, list.Annotations); diff != "" {
		t.Errorf("annotations of the index (-want +got):\n%s", diff)
	}
	dir := unpack(t, index, list.Manifests[0])
	var files []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{licensePath, sbomPath, binaryPath}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	out, err := exec.Command(filepath.Join(dir, binaryPath), "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "weir v1.2.3 ") {
		t.Errorf("weir version: %s, %v", out, err)
	}
	materials(t, dir)
}

// materials compares the bill of materials with the binary beside it.
func materials(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, sbomPath))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := json.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	info, err := buildinfo.ReadFile(filepath.Join(dir, binaryPath))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"github.com/weir-project/weir v1.2.3", "stdlib " + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, m.Path+" "+m.Version)
	}
	var got []string
	for _, p := range doc.Packages {
		got = append(got, p.PackageName+" "+p.PackageVersion)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-binary +bill):\n%s", diff)
	}
	if len(doc.Relationships) != len(want) {
		t.Errorf("%d relationships of %d packages, want one for each", len(doc.Relationships), len(want))
	}
}

// archive reads an archive with the system's tar and go-containerregistry's own checks.
func archive(t *testing.T, index v1.ImageIndex, digest string) {
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := WriteArchive(file, "localhost/weir", "latest", index); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "x", "-C", dir)
	cmd.Stdin = bytes.NewReader(first)
	cmd.Stderr = io.Discard
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	p, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	read, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(read); err != nil {
		t.Error(err)
	}
	list, err := read.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Manifests) != 1 || list.Manifests[0].Digest.String() != digest || list.Manifests[0].Annotations["io.containerd.image.name"] != "localhost/weir:latest" {
		t.Errorf("index.json: %+v, want %s under its name", list.Manifests, digest)
	}
	if err := WriteArchive(file, "localhost/weir", "latest", index); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("written again the archive differs")
	}
}
