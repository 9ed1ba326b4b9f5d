package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// entrypoint is the image's.
const entrypoint = "/weir"

// spec returns what containerd would have runc do for a container.
func (p *Pod) spec(c *v1.Container) (*specs.Spec, error) {
	if err := p.check(c); err != nil {
		return nil, err
	}
	env, err := p.env(c)
	if err != nil {
		return nil, err
	}
	mounts, err := p.mounts(c)
	if err != nil {
		return nil, err
	}
	args := []string{entrypoint}
	for _, a := range c.Args {
		args = append(args, expand(a, env))
	}
	variables := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		variables = append(variables, name+"="+env[name])
	}
	capabilities := []string{}
	for _, added := range c.SecurityContext.Capabilities.Add {
		capabilities = append(capabilities, "CAP_"+string(added))
	}
	s := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: args, Env: append(variables, p.Env...), Cwd: "/",
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			NoNewPrivileges: !ptr.Deref(c.SecurityContext.AllowPrivilegeEscalation, true),
		},
		Root:   &specs.Root{Path: p.Rootfs, Readonly: ptr.Deref(c.SecurityContext.ReadOnlyRootFilesystem, false)},
		Mounts: append(slices.Clone(systemMounts), bindMounts(mounts)...),
		Linux: &specs.Linux{
			// No network namespace: it is the host's.
			Namespaces:    []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
		},
	}
	s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
	return s, err
}

// As containerd has them.
var (
	systemMounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	maskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func bindMounts(mounts []mount) (list []specs.Mount) {
	for _, m := range mounts {
		option := "rw"
		if m.readOnly {
			option = "ro"
		}
		list = append(list, specs.Mount{Destination: m.target, Type: "bind", Source: m.source, Options: []string{"rbind", "rprivate", option}})
	}
	return list
}

// Command returns what runs a container until it ends, in the network namespace in which it is started, and with
// it everything in it, whoever ends first. Signals reach the container.
func (p *Pod) Command(c *v1.Container) (*exec.Cmd, error) {
	spec, err := p.spec(c)
	if err != nil {
		return nil, err
	}
	bundle, err := os.MkdirTemp(p.Dir, "bundle-")
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o644); err != nil {
		return nil, err
	}
	// runc is the first process of a PID namespace of its own: when it is killed, the kernel kills the container.
	id := fmt.Sprintf("weir-%d-%s", os.Getpid(), filepath.Base(bundle))
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "runc", "--root", filepath.Join(p.Dir, "runc"),
		"run", "--no-new-keyring", "--bundle", bundle, id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, nil
}

// Container returns a container, or an init container, by its name.
func (p *Pod) Container(name string) (*v1.Container, error) {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return list[i].DeepCopy(), nil
			}
		}
	}
	return nil, errors.New("no container " + name)
}
