//go:build !race

package packets

const raceDetector = false
