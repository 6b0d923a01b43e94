// Command test runs the tests of several modules, one after the other, and shows
// what passed, failed and was skipped:
//
//	test [FLAG...] MODULE[:FLAG,...]...
//
// A MODULE is a folder where "go test -json ./..." runs, with the flags before
// the first module and then its own. If one of these is the name of a package, like
// "." for the folder's, that runs instead of "./...". The last line of the output is
//
//	N passed, N failed, N skipped
//
// It counts tests that have no subtests. Whatever else fails counts as one where
// nothing below it failed: a test beside its subtests, a package that does not
// build or ends in the middle of a test, a go test that does not start.
//
// The status is 1 if anything failed, if no test passed, or if the environment
// says CI=true and a test was skipped. The first SIGINT or SIGTERM interrupts
// the running tests and leaves out the modules after them.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// patience is how long interrupted tests may take to end before they are killed:
// longer than the servers under test may take to drain.
const patience = 30 * time.Second

func main() {
	flags, modules := arguments(os.Args[1:])
	if len(modules) == 0 {
		fmt.Fprintln(os.Stderr, "usage: test [FLAG...] MODULE[:FLAG,...]...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	r := newReport(os.Stdout)
	for _, m := range modules {
		if ctx.Err() == nil {
			r.test(ctx, m.folder, slices.Concat(flags, m.flags))
		}
	}
	if !r.sum(ctx.Err() != nil, os.Getenv("CI") == "true") {
		os.Exit(1)
	}
}

type module struct {
	folder string
	flags  []string
}

// arguments gives the flags for all modules, and the modules.
func arguments(args []string) (flags []string, modules []module) {
	for _, arg := range args {
		folder, own, found := strings.Cut(arg, ":")
		switch {
		case len(modules) == 0 && strings.HasPrefix(arg, "-"):
			flags = append(flags, arg)
		case found:
			modules = append(modules, module{folder, strings.Split(own, ",")})
		default:
			modules = append(modules, module{folder, nil})
		}
	}
	return flags, modules
}

// report shows and counts what go test tells.
type report struct {
	out                     io.Writer
	passed, failed, skipped int

	// running holds the packages and tests that have begun and not ended.
	running map[name]*run
}

// name names a test, or a package where test is empty.
type name struct{ pkg, test string }

func (n name) String() string { return strings.TrimSpace(n.pkg + " " + n.test) }

type run struct {
	output strings.Builder
	// parent is whether there are tests below it, broken whether one of them failed.
	parent, broken bool
}

func newReport(out io.Writer) *report {
	return &report{out: out, running: map[name]*run{}}
}

// command is what go is told to test in folder.
func command(folder string, flags []string) []string {
	args := slices.Concat([]string{"-C", folder, "test", "-json"}, flags)
	if !slices.ContainsFunc(flags, func(flag string) bool { return !strings.HasPrefix(flag, "-") }) {
		args = append(args, "./...")
	}
	return args
}

// test runs go test in folder.
func (r *report) test(ctx context.Context, folder string, flags []string) {
	args := command(folder, flags)
	fmt.Fprintf(r.out, "go %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	// A signal reaches the tests only as a group: go test does not pass it on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		time.AfterFunc(patience, func() { syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGINT)
	}

	before := r.failed
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		r.read(stdout)
		err = cmd.Wait()
	}
	if err != nil && r.failed == before {
		r.failed++
		fmt.Fprintf(r.out, "FAIL  %s: go test: %v\n", folder, err)
	}
}

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// read shows and counts the events of one go test. A package that has not ended
// when they do has failed.
func (r *report) read(events io.Reader) {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadString('\n')
		var e event
		if json.Unmarshal([]byte(line), &e) == nil {
			r.take(e)
		} else {
			fmt.Fprint(r.out, line)
		}
		if err != nil {
			break
		}
	}
	for n := range r.running {
		if n.test == "" {
			r.take(event{Action: "fail", Package: n.pkg})
		}
	}
}

// frame matches the lines that the testing package and go test write around the
// output of a test or package; the report has its own.
var frame = regexp.MustCompile(`^(=== (RUN|PAUSE|CONT|NAME) |\s*--- (PASS|FAIL|SKIP): |FAIL[\n\t])`)

func (r *report) take(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "start", "run":
		r.running[n] = new(run)
		r.above(n, func(p *run) { p.parent = true })
	case "output":
		if this := r.running[n]; this != nil && !frame.MatchString(e.Output) {
			this.output.WriteString(e.Output)
		}
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		if this := r.running[n]; this != nil {
			delete(r.running, n)
			r.end(n, this, e.Action, e.Elapsed)
		}
	}
}

// end shows and counts a test or package that has ended.
func (r *report) end(n name, this *run, action string, seconds float64) {
	output := this.output.String()
	switch {
	case action == "fail":
		unfinished := r.unfinished(n)
		if output += unfinished; output != "" || !this.broken || n.test == "" {
			fmt.Fprintf(r.out, "FAIL  %s  %.1fs\n%s", n, seconds, output)
		}
		if !this.broken || unfinished != "" {
			r.failed++
		}
		r.above(n, func(p *run) { p.broken = true })
	case n.test == "" && action == "skip":
		fmt.Fprintf(r.out, "-     %s  no test files\n", n)
	case n.test == "":
		fmt.Fprintf(r.out, "ok    %s  %.1fs\n", n, seconds)
	case this.parent:
	case action == "skip":
		r.skipped++
		lines := strings.Split(strings.TrimSpace(output), "\n")
		fmt.Fprintf(r.out, "skip  %s: %s\n", n, strings.TrimSpace(lines[len(lines)-1]))
	default:
		r.passed++
	}
}

// unfinished forgets the tests that still run while their package has ended, and
// gives their output.
func (r *report) unfinished(n name) string {
	if n.test != "" {
		return ""
	}
	var outputs []string
	for test, this := range r.running {
		if test.pkg == n.pkg {
			delete(r.running, test)
			outputs = append(outputs, fmt.Sprintf("unfinished: %s\n%s", test.test, this.output.String()))
		}
	}
	slices.Sort(outputs)
	return strings.Join(outputs, "")
}

// above calls f with all that runs above n: the tests that it is a subtest of,
// and its package.
func (r *report) above(n name, f func(*run)) {
	for n.test != "" {
		n.test = n.test[:max(0, strings.LastIndexByte(n.test, '/'))]
		if p := r.running[n]; p != nil {
			f(p)
		}
	}
}

// sum shows the counts and tells whether all is well.
func (r *report) sum(interrupted, strict bool) bool {
	well := r.failed == 0 && r.passed > 0 && !interrupted
	if interrupted {
		fmt.Fprintln(r.out, "interrupted")
	}
	if strict && r.skipped > 0 {
		fmt.Fprintln(r.out, "a skipped test is a failure here, because CI=true")
		well = false
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return well
}
