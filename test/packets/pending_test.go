//go:build linux

package packets

// pending lists what does not work yet, by world/step/case, and why. A case in it must fail: it is taken
// off the list with the change that makes it pass.
var pending = map[string]string{}

// pendingWorlds lists worlds with which weir does not start yet.
var pendingWorlds = map[string]string{
	"masquerade-all":   "weir run has no --masquerade-all",
	"interface-prefix": "weir run has no --detect-local-mode",
	"bridge-interface": "weir run has no --detect-local-mode",
	"node-cidr":        "weir run has no --detect-local-mode",
	"address-ranges":   "weir run has no --nodeport-addresses",
	"all-addresses":    "weir run has no --nodeport-addresses",
}
