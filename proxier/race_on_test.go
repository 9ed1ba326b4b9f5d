//go:build race

package proxier

// raceDetector says whether the tests run under the race detector.
const raceDetector = true
