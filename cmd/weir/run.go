package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/internal/config"
	"github.com/weir-project/weir/proxier/conntrack"
)

func newRun() *cobra.Command {
	options := config.New()
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep this node's Services in the kernel until told to stop",
		Long: `Keep this node's Services in the kernel until told to stop.

Takes kube-proxy's configuration file and flags as they are. What it has written stays in the
kernel when it stops, so that connections go on; weir cleanup removes it.`,
		Example: `  weir run --kubeconfig /etc/kubernetes/kubelet.conf --cluster-cidr 10.244.0.0/16,fd00:10:244::/48
  weir run --config /var/lib/kube-proxy/config.conf --replace-kube-proxy
  weir run --manifests ./manifests --service-cidr 10.96.0.0/16 --cluster-cidr 10.244.0.0/16`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, options)
		},
	}
	options.AddFlags(cmd.Flags())
	return cmd
}

// run does what the flags ask for: run the daemon, mostly.
func run(cmd *cobra.Command, options *config.Options) error {
	cfg, warnings, err := options.Complete()
	var fault *config.Error
	if errors.As(err, &fault) && fault.File == "" {
		return usageError{cmd.CommandPath(), err}
	}
	if err != nil {
		return err
	}
	switch {
	case cfg.ShowVersion:
		return newVersion().RunE(cmd, nil)
	case cfg.WriteConfigTo != "":
		return cfg.Write()
	case cfg.Cleanup:
		return cleanup(cmd)
	}
	if err := cfg.ApplyLogging(); err != nil {
		return usageError{cmd.CommandPath(), err}
	}
	logger := klog.FromContext(cmd.Context())
	for _, w := range warnings {
		logger.Info("Configuration: " + string(w))
	}
	if cfg.InitOnly {
		return setConntrack(cfg) // the OOM score would end with this process
	}
	for {
		next, err := runUntilChange(cmd.Context(), options, cfg, cmd.Flags())
		if err != nil || next == nil {
			return err
		}
		cfg = next
	}
}

// initialize does what a container may not without further privileges.
func initialize(cfg *config.Config) error {
	return errors.Join(setOOMScore(cfg.OOMScoreAdj), setConntrack(cfg))
}

// setOOMScore makes the kernel more or less likely to end this process when memory runs out.
func setOOMScore(score int) error {
	const file = "/proc/self/oom_score_adj"
	if err := os.WriteFile(file, fmt.Appendln(nil, score), 0); err != nil {
		return fmt.Errorf("write oomScoreAdj %d (needs CAP_SYS_RESOURCE to go below what it was): %w", score, err)
	}
	return nil
}

func setConntrack(cfg *config.Config) error {
	c := cfg.Conntrack
	perCore, least := int32(c.MaxPerCore), int32(c.Min)
	return conntrack.Setup(conntrack.SysctlConfig{
		MaxPerCore: &perCore, Min: &least,
		TCPEstablishedTimeout: &c.TCPEstablishedTimeout,
		TCPCloseWaitTimeout:   &c.TCPCloseWaitTimeout,
		UDPTimeout:            &c.UDPTimeout,
		UDPStreamTimeout:      &c.UDPStreamTimeout,
		TCPBeLiberal:          c.TCPBeLiberal,
		Dir:                   cfg.SysctlDir,
	})
}

// runUntilChange runs the daemon until ctx ends, and then returns nil, or until the configuration
// file changes in a way that takes a restart, and then returns what it says now.
func runUntilChange(ctx context.Context, options *config.Options, cfg *config.Config, flags *pflag.FlagSet) (*config.Config, error) {
	logger := logged.tee(klog.FromContext(ctx))
	ctx = klog.NewContext(ctx, logger)
	// Not fatal: a read-only /proc/sys, or a container without the right, is common.
	if err := initialize(cfg); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EROFS) {
		logger.Error(err, "Setting kernel parameters")
	} else if err != nil {
		logger.Info("Kernel parameters stay as they are: weir run --init-only sets them before, with --sysctl-dir where /proc/sys is read-only", "reason", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := newDaemon(ctx, cfg, flags)
	if err != nil {
		return nil, err
	}
	var next *config.Config
	if cfg.File != "" {
		d.group.Go(func() error {
			return options.Watch(d.ctx, cfg, func(changed *config.Config, warnings []config.Warning) {
				for _, w := range warnings {
					logger.Info("Configuration: " + string(w))
				}
				if restart := d.apply(changed); restart {
					next = changed
					cancel()
				}
			})
		})
	}
	err = d.run()
	if next == nil {
		logger.Info("Stopped; the rules stay in the kernel (weir cleanup removes them)")
	}
	return next, err
}

// layout returns what the rules depend on, as far as the configuration says.
func layout(cfg *config.Config) dataplane.Layout {
	l := dataplane.Layout{MasqueradeAll: cfg.MasqueradeAll, CountConnections: cfg.ServiceMetrics > 0, DNS: dnsLayout(cfg.DNS)}
	switch d := cfg.LocalDetection; d.Mode {
	case config.DetectClusterCIDR:
		l.Local.CIDRs = d.ClusterCIDRs
	case config.DetectBridgeInterface:
		l.Local.Interface = d.BridgeInterface
	case config.DetectInterfaceNamePrefix:
		l.Local.InterfacePrefix = d.InterfaceNamePrefix
	}
	return l
}
