package main

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPartsOfFewRounds(t *testing.T) {
	o, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{options: o}
	got := map[string][]int{}
	for _, part := range allParts {
		for round := range b.rounds {
			if b.due(part, round) {
				got[part] = append(got[part], round)
			}
		}
	}
	all := []int{0, 1, 2, 3, 4}
	want := map[string][]int{"change": all, "service": all, "restart": all, "roll": {1, 3, 4}, "busy": {2, 4}, "early": {2, 4}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rounds (-want +got):\n%s", diff)
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	for _, args := range [][]string{
		{"--section", "nothing"}, {"--part", "nothing"}, {"--proxy", "noname"}, {"--proxy", "=cmd"}, {"--sizes", "1,many"},
	} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
