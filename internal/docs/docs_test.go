package docs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	tests := []struct {
		name, text, before, old, after string
		ok                             bool
	}{
		{"a part", "a<!-- generated: x -->b<!-- end: x -->c", "a<!-- generated: x -->", "b", "<!-- end: x -->c", true},
		{"among others", "<!-- generated: y -->1<!-- end: y --><!-- generated: x -->2<!-- end: x -->",
			"<!-- generated: y -->1<!-- end: y --><!-- generated: x -->", "2", "<!-- end: x -->", true},
		{"without an end", "<!-- generated: x -->", "", "", "", false},
		{"the end first", "<!-- end: x --><!-- generated: x -->", "", "", "", false},
		{"no part", "text", "", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, old, after, err := split(tt.text, "x")
			if before != tt.before || old != tt.old || after != tt.after || (err == nil) != tt.ok {
				t.Errorf("%q, %q, %q, %v", before, old, after, err)
			}
		})
	}
}

func TestCell(t *testing.T) {
	if got, want := Cell("a  <b>\n| c"), `a &lt;b&gt; \| c`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBlocks(t *testing.T) {
	text := "Text\n\n    weir run \\\n      --manifests DIR  # note\n\n```sh run\nweir cleanup | cat\n```\n* item\n    goes on\n```\nx\n```\n"
	got, err := Blocks(text)
	want := []Block{
		{Line: 3, Text: "weir run \\\n  --manifests DIR  # note\n"},
		{Line: 7, Language: "sh", Run: true, Text: "weir cleanup | cat\n"},
		{Line: 12, Text: "x\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Blocks (-want +got), %v:\n%s", err, diff)
	}
	var commands []string
	for _, b := range got {
		commands = append(commands, b.Commands("weir")...)
	}
	if diff := cmp.Diff([]string{"weir run    --manifests DIR", "weir cleanup"}, commands); diff != "" {
		t.Errorf("Commands (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"```sh\nx", "```ruby\nx\n```", "```go run\nx\n```"} {
		if _, err := Blocks(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
