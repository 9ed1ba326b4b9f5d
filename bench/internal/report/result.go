// Package report holds what benchmarks found, and shows it: as JSON files, tables and pictures.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/bench/internal/stat"
)

// Result is one thing that was measured of one proxy in one cluster.
type Result struct {
	Section   string `json:"section"`
	Metric    string `json:"metric"`
	Proxy     string `json:"proxy"`
	Services  int    `json:"services"`
	Endpoints int    `json:"endpoints"` // of each service
	Unit      string `json:"unit"`

	stat.Summary
	// Values are in the order in which they were measured, or, if there were more than 1,000,
	// sorted ones that stand for their distribution.
	Values stat.Series `json:"values"`
	Goal   *Goal       `json:"goal,omitempty"` // Weir's; nil: none
	Note   string      `json:"note,omitempty"`
}

// Goal bounds a statistic of a result, or two.
type Goal struct {
	P50 float64 `json:"p50,omitempty"` // at most; 0: no bound
	P99 float64 `json:"p99,omitempty"`
	Max float64 `json:"max,omitempty"`

	None    bool    `json:"none,omitempty"`    // nothing but zeros
	AtLeast float64 `json:"atLeast,omitempty"` // the median
}

// Missed says which bounds a summary exceeds, "" if none.
func (g *Goal) Missed(s stat.Summary) string {
	if g == nil {
		return ""
	}
	for _, b := range []struct {
		name       string
		is, atMost float64
	}{{"p50", s.P50, g.P50}, {"p99", s.P99, g.P99}, {"max", s.Max, g.Max}} {
		if (b.atMost > 0 || g.None) && b.is > b.atMost {
			return b.name
		}
	}
	if s.P50 < g.AtLeast {
		return "p50"
	}
	return ""
}

// String returns the goal as a table shows it.
func (g *Goal) String() string {
	if g.None {
		return "none"
	}
	if g.AtLeast > 0 {
		return fmt.Sprintf("p50 ≥ %g", g.AtLeast)
	}
	text := ""
	for _, b := range []struct {
		name   string
		atMost float64
	}{{"p50", g.P50}, {"p99", g.P99}, {"max", g.Max}} {
		if b.atMost > 0 {
			text += fmt.Sprintf(", %s ≤ %g", b.name, b.atMost)
		}
	}
	return text[min(2, len(text)):]
}

// Failure is what could not be measured, and why.
type Failure struct {
	Section string `json:"section"`
	Proxy   string `json:"proxy"`
	Error   string `json:"error"` // with the end of the log, if there is one
}

// Run is what one run of the benchmark found.
type Run struct {
	Started  time.Time         `json:"started"`
	Took     string            `json:"took"`
	Command  []string          `json:"command"`
	Machine  Machine           `json:"machine"`
	Load     [2]string         `json:"load"` // averages over 1, 5 and 15 minutes, before and after
	Versions map[string]string `json:"versions"`
	Results  []Result          `json:"results"`
	Notes    []string          `json:"notes,omitempty"`
	Failures []Failure         `json:"failures,omitempty"`
}

// Add adds a result of some values, and returns it for a goal or a note. Without values it adds
// nothing.
func (r *Run) Add(res Result, values stat.Series) *Result {
	if len(values) == 0 {
		return &Result{}
	}
	res.Summary, res.Values = values.Summarize(), values.Thin(1000)
	r.Results = append(r.Results, res)
	return &r.Results[len(r.Results)-1]
}

// Write writes the run into a file.
func (r *Run) Write(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(compact(b), '\n'), 0o644)
}

// Read reads all runs of a directory, the oldest first. Those of a part are left out.
func Read(dir string) ([]*Run, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var runs []*Run
	for _, path := range paths {
		if strings.HasSuffix(path, "-partial.json") {
			continue
		}
		r, err := ReadOne(path)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	if len(runs) == 0 {
		return nil, errors.New("no results in " + dir)
	}
	slices.SortFunc(runs, func(a, b *Run) int { return a.Started.Compare(b.Started) })
	return runs, nil
}

// ReadOne reads a run.
func ReadOne(path string) (*Run, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Run{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// key identifies what was measured.
type key struct {
	section, metric, proxy string
	services, endpoints    int
}

func (r *Result) key() key { return key{r.Section, r.Metric, r.Proxy, r.Services, r.Endpoints} }

// Latest returns the results of some runs, of each kind only the last, in the order in which they
// first came.
func Latest(runs []*Run) []Result {
	var all []Result
	at := map[key]int{}
	for _, run := range runs {
		for _, r := range run.Results {
			if i, ok := at[r.key()]; ok {
				all[i] = r
				continue
			}
			at[r.key()] = len(all)
			all = append(all, r)
		}
	}
	return all
}

// compact puts arrays of numbers on one line.
func compact(b []byte) []byte {
	var out []byte
	inNumbers := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '[' && numbersFollow(b[i+1:]):
			inNumbers = true
			out = append(out, c)
		case inNumbers && (c == '\n' || c == ' '):
		default:
			inNumbers = inNumbers && c != ']'
			out = append(out, c)
		}
	}
	return out
}

func numbersFollow(b []byte) bool {
	for _, c := range b {
		if c != '\n' && c != ' ' {
			return c >= '0' && c <= '9' || c == '-'
		}
	}
	return false
}

// order sorts by a key of each, and leaves equals as they are.
func order[T any, K cmp.Ordered](list []T, of func(T) K) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(of(a), of(b)) })
}
