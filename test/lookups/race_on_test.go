//go:build race

package lookups

// raceDetector says whether the tests run under the race detector. weir then does, too.
const raceDetector = true
