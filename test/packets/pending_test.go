//go:build linux

package packets

// pending lists what does not work yet, by world/step/case, and why. A case in it must fail: it is taken
// off the list with the change that makes it pass.
var pending = map[string]string{}

// pendingWorlds lists worlds with which weir does not start yet.
var pendingWorlds = map[string]string{}
