package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect/api"
)

// version is stamped by the Makefile.
var version = "devel"

// build says which program this is, as far as the build knows.
func build() api.Build {
	b := api.Build{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if stamped := info.Main.Version; b.Version == "devel" && stamped != "" && stamped != "(devel)" {
		b.Version = stamped
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func newVersion() *cobra.Command {
	l := &look{}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  weir version
  weir version -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.check(cmd); err != nil {
				return err
			}
			v := api.VersionInfo{Meta: api.Meta{APIVersion: api.Version, Kind: "Version"}, Build: build()}
			return l.show(cmd, v, func(s *screen) { s.line("weir %s %s %s", v.Version, v.GoVersion, v.Platform) })
		},
	}
	l.addOutput(cmd)
	return cmd
}
