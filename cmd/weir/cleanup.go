package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dns/node"
)

func newCleanup() *cobra.Command {
	return &cobra.Command{
		Use:   "cleanup",
		Short: "Remove Weir's nftables tables and DNS addresses from this network namespace, and nothing else",
		Long: `Remove Weir's nftables tables, and the DNS addresses that it has put on lo, from this network
namespace, and nothing else.

A stopped weir leaves its tables, so that connections go on while it restarts. This command takes
them away, for good or before another proxy takes over. While weir runs it refuses.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cleanup(cmd) },
	}
}

func cleanup(cmd *cobra.Command) error {
	removed, err := dataplane.Cleanup(0)
	for _, table := range removed {
		fmt.Fprintln(cmd.OutOrStdout(), "removed table", table)
	}
	if err != nil {
		return err
	}
	addrs, err := node.RemoveAddresses(nil)
	for _, a := range addrs {
		fmt.Fprintln(cmd.OutOrStdout(), "removed address", a)
	}
	if err == nil && len(removed)+len(addrs) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "nothing to remove")
	}
	return err
}
