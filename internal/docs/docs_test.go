package docs

import "testing"

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
