//go:build !race

package switchover

const raceDetector = false
