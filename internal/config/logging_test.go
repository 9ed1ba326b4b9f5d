package config

import (
	"testing"

	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

func TestApplyLogging(t *testing.T) {
	defer func() {
		if err := logsapi.ResetForTest(nil); err != nil {
			t.Error(err)
		}
	}()
	c, _, err := parse(t, "-v=2", "--logging-format=json").Complete()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ApplyLogging(); err != nil {
		t.Fatal(err)
	}
	if !klog.V(2).Enabled() || klog.V(3).Enabled() {
		t.Errorf("verbosity after start: V(2) %v, V(3) %v", klog.V(2).Enabled(), klog.V(3).Enabled())
	}
	c.Logging.Verbosity = 3
	if err := c.ApplyLogLevel(); err != nil {
		t.Fatal(err)
	}
	if !klog.V(3).Enabled() || klog.V(4).Enabled() || !klog.Background().V(3).Enabled() {
		t.Errorf("verbosity changed: V(3) %v, V(4) %v", klog.V(3).Enabled(), klog.V(4).Enabled())
	}
}

func TestApplyVModule(t *testing.T) {
	defer func() {
		if err := logsapi.ResetForTest(nil); err != nil {
			t.Error(err)
		}
	}()
	c, _, err := parse(t, "-v=1").Complete()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ApplyLogging(); err != nil {
		t.Fatal(err)
	}
	c.Logging.VModule = logsapi.VModuleConfiguration{{FilePattern: "logging_*", Verbosity: 7}}
	if err := c.ApplyLogLevel(); err != nil {
		t.Fatal(err)
	}
	if !klog.V(7).Enabled() || klog.V(8).Enabled() {
		t.Errorf("this file at 7: V(7) %v, V(8) %v", klog.V(7).Enabled(), klog.V(8).Enabled())
	}
	c.Logging.VModule = nil
	if err := c.ApplyLogLevel(); err != nil {
		t.Fatal(err)
	}
	if klog.V(7).Enabled() {
		t.Error("this file is still at 7")
	}
}
