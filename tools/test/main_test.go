package main

import (
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	tests := []struct {
		name                    string
		events                  string
		passed, failed, skipped int
		shows                   []string // in this order
		hides                   string
	}{
		{
			name: "a test passes",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: hello\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA (0.00s)\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"p","Output":"ok  \tp\t1.234s\n"}
{"Action":"pass","Package":"p","Elapsed":1.234}`,
			passed: 1,
			shows:  []string{"ok    p  1.2s\n"},
			hides:  "TestA",
		},
		{
			name: "a test fails",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: want 1\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"        got 2\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- FAIL: TestA (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.025s\n"}
{"Action":"fail","Package":"p","Elapsed":0.026}`,
			failed: 1,
			shows:  []string{"FAIL  p TestA  0.0s\n    a_test.go:3: want 1\n        got 2\nFAIL  p  0.0s\n"},
			hides:  "---",
		},
		{
			name: "a test with subtests does not count",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"run","Package":"p","Test":"TestA/one/deep"}
{"Action":"pass","Package":"p","Test":"TestA/one/deep"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"run","Package":"p","Test":"TestA/a/b"}
{"Action":"output","Package":"p","Test":"TestA/a/b","Output":"    a_test.go:4: broken\n"}
{"Action":"fail","Package":"p","Test":"TestA/a/b"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			passed: 1,
			failed: 1,
			shows:  []string{"FAIL  p TestA/a/b  0.0s\n    a_test.go:4: broken\n", "FAIL  p  0.0s\n"},
			hides:  "TestA  ",
		},
		{
			name: "a test that fails beside its subtests counts",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:5: own\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			passed: 1,
			failed: 1,
			shows:  []string{"FAIL  p TestA  0.0s\n    a_test.go:5: own\n"},
		},
		{
			name: "a skipped test tells its reason",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:6: looking for it\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: no redis\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`,
			skipped: 1,
			shows:   []string{"skip  p TestA: a_test.go:7: no redis\n"},
			hides:   "looking",
		},
		{
			name: "a package without tests is not a skipped test",
			events: `
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p","Elapsed":0}`,
			shows: []string{"-     p  no test files\n"},
		},
		{
			name: "a package that does not build counts as one",
			events: `
{"ImportPath":"p [p.test]","Action":"build-output","Output":"# p [p.test]\n"}
{"ImportPath":"p [p.test]","Action":"build-output","Output":"p_test.go:3:29: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p [p.test]"}`,
			failed: 1,
			shows:  []string{"p_test.go:3:29: undefined: x\n", "FAIL  p  0.0s\n"},
		},
		{
			name: "a panic leaves a test unfinished, which counts beside the failed one",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"panic: elsewhere\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.015s\n"}
{"Action":"fail","Package":"p","Elapsed":0.015}`,
			failed: 2,
			shows:  []string{"FAIL  p TestA  0.0s\n", "FAIL  p  0.0s\nunfinished: TestB\npanic: elsewhere\n"},
		},
		{
			name: "an exit from TestMain counts as one",
			events: `
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"no free port\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.038s\n"}
{"Action":"fail","Package":"p","Elapsed":0.039}`,
			failed: 1,
			shows:  []string{"FAIL  p  0.0s\nno free port\n"},
		},
		{
			name: "events that stop leave a package failed",
			events: `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: waiting\n"}
{"Action":"start","Package":"q"}
{"Action":"pass","Package":"q"}
{"Action":"out`,
			failed: 1,
			shows:  []string{"ok    q  0.0s\n", `{"Action":"out`, "FAIL  p  0.0s\nunfinished: TestA\n    a_test.go:3: waiting\n"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			r.read(strings.NewReader(strings.TrimPrefix(test.events, "\n")))

			if r.passed != test.passed || r.failed != test.failed || r.skipped != test.skipped {
				t.Errorf("%d passed, %d failed, %d skipped, want %d, %d, %d",
					r.passed, r.failed, r.skipped, test.passed, test.failed, test.skipped)
			}
			rest := out.String()
			for _, want := range test.shows {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Errorf("does not show %q here: %q", want, rest)
				}
				rest = after
			}
			if test.hides != "" && strings.Contains(out.String(), test.hides) {
				t.Errorf("shows %q: %q", test.hides, out.String())
			}
		})
	}
}

func TestSum(t *testing.T) {
	tests := []struct {
		name                    string
		passed, failed, skipped int
		interrupted, strict     bool
		well                    bool
	}{
		{name: "all passed", passed: 2, strict: true, well: true},
		{name: "one failed", passed: 2, failed: 1},
		{name: "nothing passed", skipped: 1},
		{name: "one skipped", passed: 2, skipped: 1, well: true},
		{name: "one skipped where none may be", passed: 2, skipped: 1, strict: true},
		{name: "interrupted", passed: 2, interrupted: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newReport(io.Discard)
			r.passed, r.failed, r.skipped = test.passed, test.failed, test.skipped
			if well := r.sum(test.interrupted, test.strict); well != test.well {
				t.Errorf("%t, want %t", well, test.well)
			}
		})
	}
}

func TestSum_LastLineHoldsTheCounts(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	r.passed, r.failed, r.skipped = 3, 2, 1
	r.sum(true, true)
	if want := "\n3 passed, 2 failed, 1 skipped\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("%q does not end with %q", out.String(), want)
	}
}

func TestArguments(t *testing.T) {
	flags, modules := arguments([]string{"-count=1", "-timeout=8m", ".:-race,-short", "tools/b"})
	if want := []string{"-count=1", "-timeout=8m"}; !reflect.DeepEqual(flags, want) {
		t.Errorf("flags for all: %q, want %q", flags, want)
	}
	if want := []module{{".", []string{"-race", "-short"}}, {"tools/b", nil}}; !reflect.DeepEqual(modules, want) {
		t.Errorf("modules: %q, want %q", modules, want)
	}
}

func TestCommand(t *testing.T) {
	tests := []struct{ flags, want string }{
		{"-count=1 -race", "-C a test -json -count=1 -race ./..."},
		{"-count=1 . -cluster", "-C a test -json -count=1 . -cluster"},
	}
	for _, test := range tests {
		if got := strings.Join(command("a", strings.Fields(test.flags)), " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.flags, got, test.want)
		}
	}
}
