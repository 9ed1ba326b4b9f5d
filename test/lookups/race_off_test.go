//go:build !race

package lookups

const raceDetector = false
