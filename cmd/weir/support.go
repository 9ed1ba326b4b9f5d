package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect"
)

func newSupportDump() *cobra.Command {
	l := &look{}
	cmd := l.command(&cobra.Command{
		Use:   "support-dump FILE",
		Short: "Collect everything that a maintainer needs, without secrets",
		Long: `Collect everything that a maintainer needs, without secrets.

FILE becomes a compressed archive (tar.gz) of text: status, Services, the kernel's maps and what weir
verify says of them, connections, recent syncs and log lines, metrics, goroutines, configuration, kernel
parameters, addresses and routes. The names and addresses of Services and Pods are in it. Tokens, keys and
kubeconfigs are not.

Without a running weir, what the machine itself tells is collected, and the exit code is 1.`,
		Example: `  weir support-dump /tmp/weir-node1.tar.gz`,
		Args:    exactArgs(1),
	}, func(cmd *cobra.Command, args []string, client *inspect.Client) error {
		d := &dump{client: client, screen: cmd.ErrOrStderr()}
		if err := d.write(cmd.Context(), args[0]); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "wrote %s: %s\n", args[0], plural(d.parts, "part", "parts"))
		if d.missing != nil {
			return fmt.Errorf("it is not complete: %w", d.missing)
		}
		return nil
	})
	cmd.Flags().Lookup("output").Hidden = true
	return cmd
}

// dump is an archive in the making.
type dump struct {
	client  *inspect.Client
	screen  io.Writer // for progress
	archive *tar.Writer
	parts   int
	missing error // the first part that could not be had
}

// served are the parts that weir serves: the file's name, and where to ask.
var served = []struct{ file, path, query string }{
	{"status.json", "/v1/status", ""},
	{"services.json", "/v1/services", "endpoints=true"},
	{"events.json", "/v1/events", ""},
	{"verify.json", "/v1/verify", ""},
	{"connections.json", "/v1/connections", ""},
	{"ruleset.txt", "/v1/ruleset", ""},
	{"config.json", "/v1/debug/config", ""},
	{"log.txt", "/v1/debug/log", ""},
	{"metrics.txt", "/v1/debug/metrics", ""},
	{"goroutines.txt", "/v1/debug/goroutines", ""},
	{"sysctls.txt", "/v1/debug/sysctls", ""},
	{"network.txt", "/v1/debug/network", ""},
}

// write writes the archive, beside its place first.
func (d *dump) write(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is there already: take another name, or remove it", path)
	}
	partial := path + ".partial"
	file, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	compressed := gzip.NewWriter(file)
	d.archive = tar.NewWriter(compressed)
	err = d.collect(ctx)
	err = errors.Join(err, d.archive.Close(), compressed.Close(), file.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(partial))
	}
	return os.Rename(partial, path)
}

// collect adds every part. Only an archive that cannot be written is an error.
func (d *dump) collect(ctx context.Context) error {
	err := d.add("version.json", func(w io.Writer) error { return printJSON(w, build()) })
	reached := true
	for _, s := range served {
		if !reached || err != nil {
			break
		}
		query, _ := url.ParseQuery(s.query)
		err = d.add(s.file, func(w io.Writer) error {
			body, err := d.client.Open(ctx, http.MethodGet, s.path, query)
			if err != nil {
				reached = reached && s.path != "/v1/status"
				return err
			}
			defer body.Close()
			_, err = io.Copy(w, body)
			return err
		})
	}
	if !reached {
		err = errors.Join(err, d.add("sysctls.txt", inspect.Sysctls), d.add("network.txt", inspect.Network))
	}
	if nft, lookErr := exec.LookPath("nft"); lookErr == nil && err == nil {
		// The rules of everybody, without elements: those of other tables may matter too.
		err = d.add("nft.txt", func(w io.Writer) error { return runInto(ctx, w, nft, "-t", "list", "ruleset") })
	}
	return err
}

func runInto(ctx context.Context, w io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = w, w
	return cmd.Run()
}

// add adds one part. That it cannot be had is noted in its place.
func (d *dump) add(name string, part func(io.Writer) error) error {
	done := progress(d.screen, "collecting "+name)
	var b bytes.Buffer // archives want to know the size beforehand
	err := part(&b)
	done()
	if err != nil {
		fmt.Fprintf(&b, "\nnot complete: %v\n", err)
		if d.missing == nil {
			d.missing = err
		}
	}
	head := &tar.Header{Name: "weir/" + name, Mode: 0o600, Size: int64(b.Len()), ModTime: time.Now()}
	if err := d.archive.WriteHeader(head); err != nil {
		return err
	}
	d.parts++
	_, err = d.archive.Write(b.Bytes())
	return err
}
