//go:build race

package endpoints

// raceDetector says whether the tests run under the race detector.
const raceDetector = true
