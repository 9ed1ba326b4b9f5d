// Command weir-image builds Weir's image from the source tree that it is run in, and writes it to a
// file in OCI layout.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/deploy/tools/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "weir-image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	source := flag.String("source", "../..", "root of the source tree")
	out := flag.String("out", "", "file to write; required")
	name := flag.String("name", "localhost/weir", "what the image is called")
	tag := flag.String("tag", "latest", "and its tag")
	version := flag.String("version", "", "default: as git describes the tree")
	arches := flag.String("arches", "amd64,arm64", "architectures, separated by commas")
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	cfg := image.Config{Source: *source, Version: *version, Arches: strings.Split(*arches, ",")}
	if err := fromGit(ctx, &cfg); err != nil {
		return err
	}
	index, err := image.Build(ctx, cfg)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := image.WriteArchive(*out, *name, *tag, index); err != nil {
		return err
	}
	fmt.Printf("%s: %s:%s %s %s\n", *out, *name, *tag, cfg.Version, digest)
	return nil
}

// fromGit fills in what the source tree's repository says. SOURCE_DATE_EPOCH goes before the commit's time.
func fromGit(ctx context.Context, cfg *image.Config) error {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", cfg.Source}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	if cfg.Version == "" {
		cfg.Version = "devel"
		if v, err := git("describe", "--tags", "--always", "--dirty"); err == nil {
			cfg.Version = v
		}
	}
	if revision, err := git("rev-parse", "HEAD"); err == nil {
		cfg.Revision = revision
	}
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if seconds == "" {
		var err error
		if seconds, err = git("log", "-1", "--format=%ct"); err != nil {
			seconds = "0" // no repository: an old image, but the same each time
		}
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH %q: seconds since 1970 are wanted", seconds)
	}
	cfg.Created = time.Unix(n, 0)
	return nil
}
