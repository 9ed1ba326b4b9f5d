package config

import (
	"flag"
	"fmt"
	"strconv"

	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

// ApplyLogging sets up logging for the process. It is called once, before there are goroutines
// that log.
func (c *Config) ApplyLogging() error {
	gate, err := newGate(c.FeatureGates)
	if err != nil {
		return fmt.Errorf("apply logging configuration: %w", err)
	}
	if err := logsapi.ValidateAndApply(&c.Logging, gate); err != nil {
		return fmt.Errorf("apply logging configuration: %w", err)
	}
	return nil
}

// ApplyLogLevel sets verbosity and vmodule, which can change at any time after ApplyLogging.
func (c *Config) ApplyLogLevel() error {
	if _, err := logs.GlogSetter(strconv.FormatUint(uint64(c.Logging.Verbosity), 10)); err != nil {
		return fmt.Errorf("set log verbosity: %w", err)
	}
	var fs flag.FlagSet
	klog.InitFlags(&fs) // its flags are klog's own variables, and locked
	if err := fs.Set("vmodule", vmoduleText(c)); err != nil {
		return fmt.Errorf("set log vmodule: %w", err)
	}
	return nil
}

// vmoduleText is vmodule as the flag has it.
func vmoduleText(c *Config) string {
	return logsapi.VModuleConfigurationPflag(&c.Logging.VModule).String()
}
