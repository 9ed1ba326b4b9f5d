//go:build !race

package nodedns

const raceDetector = false
