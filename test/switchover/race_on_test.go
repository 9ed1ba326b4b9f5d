//go:build race

package switchover

// raceDetector says whether the tests run under the race detector. weir then does, too.
const raceDetector = true
