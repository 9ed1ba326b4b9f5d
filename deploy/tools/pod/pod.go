package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Pod is a pod on a node.
type Pod struct {
	Spec     v1.PodSpec
	NodeName string
	Rootfs   string // the unpacked image of all its containers
	Dir      string // for volumes and logs

	// ConfigMap returns the data of a ConfigMap in the pod's namespace, or an error; one that is an fs.ErrNotExist
	// says that there is none.
	ConfigMap func(name string) (map[string]string, error)
	// Account are the files of the service account. Nil: none is mounted.
	Account map[string][]byte
	// ResolvConf is what a container finds in /etc/resolv.conf.
	ResolvConf string
	// Env are further variables, after those of the container.
	Env []string
}

// accountDir is where containers find their service account.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// mount is a file or directory of the host in a container.
type mount struct {
	source, target string
	readOnly       bool
}

// check refuses what this package does not do.
func (p *Pod) check(c *v1.Container) error {
	var errs []error
	refuse := func(asked bool, what string) {
		if asked {
			errs = append(errs, fmt.Errorf("container %s: %s is not supported here", c.Name, what))
		}
	}
	s, of := c.SecurityContext, p.Spec.SecurityContext
	if s == nil || of == nil {
		return fmt.Errorf("container %s: it and its pod must have a securityContext", c.Name)
	}
	refuse(!p.Spec.HostNetwork, "a network of its own")
	refuse(p.Spec.HostPID || p.Spec.HostIPC, "hostPID, hostIPC")
	refuse(ptr.Deref(s.Privileged, false), "privileged")
	refuse(ptr.Deref(of.RunAsUser, -1) != 0 || s.RunAsUser != nil, "another user than root")
	refuse(of.SeccompProfile == nil || of.SeccompProfile.Type != v1.SeccompProfileTypeRuntimeDefault || s.SeccompProfile != nil,
		"another seccomp profile than RuntimeDefault of the pod")
	refuse(s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL", "capabilities without drop: [ALL]")
	refuse(len(c.Command) > 0, "command")
	refuse(c.WorkingDir != "", "workingDir")
	return errors.Join(errs...)
}

var reference = regexp.MustCompile(`\$\([A-Za-z_][A-Za-z0-9_.-]*\)`)

// expand puts variables in the place of $(NAME). Those that there are not stay as they are.
func expand(s string, env map[string]string) string {
	return reference.ReplaceAllStringFunc(s, func(ref string) string {
		if value, ok := env[ref[2:len(ref)-1]]; ok {
			return value
		}
		return ref
	})
}

// env returns a container's variables.
func (p *Pod) env(c *v1.Container) (map[string]string, error) {
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		ref := from.ConfigMapRef
		if ref == nil || from.Prefix != "" {
			return nil, fmt.Errorf("container %s: envFrom: only ConfigMaps without prefix are supported here", c.Name)
		}
		data, err := p.ConfigMap(ref.Name)
		if errors.Is(err, os.ErrNotExist) && ptr.Deref(ref.Optional, false) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: envFrom: %w", c.Name, err)
		}
		for name, value := range data {
			env[name] = value
		}
	}
	for _, e := range c.Env {
		switch {
		case e.ValueFrom == nil:
			env[e.Name] = expand(e.Value, env)
		case e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "spec.nodeName":
			env[e.Name] = p.NodeName
		default:
			return nil, fmt.Errorf("container %s: env %s: its source is not supported here", c.Name, e.Name)
		}
	}
	return env, nil
}

// mounts makes a container's volumes.
func (p *Pod) mounts(c *v1.Container) ([]mount, error) {
	volumes := map[string]v1.Volume{}
	for _, v := range p.Spec.Volumes {
		volumes[v.Name] = v
	}
	var mounts []mount
	for _, m := range c.VolumeMounts {
		v, ok := volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("container %s: no volume %s", c.Name, m.Name)
		}
		source, readOnly, err := p.volume(v)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		mounts = append(mounts, mount{source, m.MountPath, readOnly || m.ReadOnly})
	}
	files := map[string]map[string][]byte{"etc": {"resolv.conf": []byte(p.ResolvConf)}}
	if p.Account != nil {
		files["account"] = p.Account
		mounts = append(mounts, mount{filepath.Join(p.Dir, "account"), accountDir, true})
	}
	mounts = append(mounts, mount{filepath.Join(p.Dir, "etc/resolv.conf"), "/etc/resolv.conf", true})
	for dir, content := range files {
		if err := write(filepath.Join(p.Dir, dir), content); err != nil {
			return nil, err
		}
	}
	return mounts, nil
}

// volume makes a volume, if it is not there yet, and returns where it is.
func (p *Pod) volume(v v1.Volume) (source string, readOnly bool, err error) {
	dir := filepath.Join(p.Dir, "volume-"+v.Name)
	switch {
	case v.HostPath != nil:
		if t := ptr.Deref(v.HostPath.Type, v1.HostPathUnset); t != v1.HostPathDirectory {
			return "", false, fmt.Errorf("hostPath of type %q is not supported here", t)
		}
		_, err := os.ReadDir(v.HostPath.Path)
		return v.HostPath.Path, false, err
	case v.EmptyDir != nil:
		return dir, false, os.MkdirAll(dir, 0o777)
	case v.ConfigMap != nil && len(v.ConfigMap.Items) == 0:
		data, err := p.ConfigMap(v.ConfigMap.Name)
		if err != nil {
			return "", false, err
		}
		content := map[string][]byte{}
		for name, text := range data {
			content[name] = []byte(text)
		}
		return dir, true, write(dir, content)
	}
	return "", false, errors.New("its kind is not supported here")
}

// write writes files into a directory.
func write(dir string, files map[string][]byte) error {
	errs := []error{os.MkdirAll(dir, 0o755)}
	for name, data := range files {
		if strings.ContainsRune(name, '/') {
			return fmt.Errorf("file name %q", name)
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	return errors.Join(errs...)
}
