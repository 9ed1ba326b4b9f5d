package dns

import "errors"

// ErrElsewhere says that a name is not in the zone, or leads out of it.
var ErrElsewhere = errors.New("not a name of the zone")

// Answer answers one query, as over TCP. It is for people who ask what a server would answer: it
// allocates. What has been found of a name that leads out of the zone is in the answer.
func (z *Zone) Answer(query []byte) ([]byte, error) {
	r := &reply{zone: z, noRA: true}
	b, outcome := r.respond(nil, query, true)
	switch outcome {
	case answered:
		return b, nil
	case chase:
		return r.finish(), nil
	}
	return nil, ErrElsewhere
}
