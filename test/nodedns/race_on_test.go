//go:build race

package nodedns

// raceDetector says whether the tests run under the race detector. weir then does, too.
const raceDetector = true
