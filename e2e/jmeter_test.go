//go:build jmeter

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// jmeter runs the plan against the gateway at addr and gives the status and all
// that is said. Properties are like "-Jthreads=20".
func jmeter(t *testing.T, addr string, properties ...string) (status int, said string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "../tools/jmeter/run", append([]string{"-Jhost=" + host, "-Jport=" + port}, properties...)...)
	cmd.Env = append(cmd.Environ(), "RESULTS="+t.TempDir())
	out, _ := cmd.CombinedOutput() // its error is the status
	require.NotNil(t, cmd.ProcessState)
	return cmd.ProcessState.ExitCode(), string(out)
}

// row gives the samples and the errors of a sampler in the table.
func row(t *testing.T, said, sampler string) (samples, errors int) {
	t.Helper()
	for line := range strings.Lines(said) {
		if fields := strings.Fields(line); len(fields) == 8 && fields[0] == sampler {
			fmt.Sscan(fields[1]+" "+fields[2], &samples, &errors)
			return samples, errors
		}
	}
	require.Fail(t, "the table has no "+sampler, said)
	return 0, 0
}

func TestJMeter_EveryTextIsStoredOnceAndInOrder(t *testing.T) {
	const run = "of-the-test"
	status, said := jmeter(t, shared.Gateways[0].Addr, "-Jrampup=2", "-Jrun="+run)
	require.Zero(t, status, said)
	for _, sampler := range []string{"Send", "Pull"} {
		samples, errors := row(t, said, sampler)
		assert.Equal(t, 200, samples, said)
		assert.Zero(t, errors, said)
	}

	stored := 0
	for thread := 1; thread <= 20; thread++ {
		all := pullAll(t, shared.URL(), fmt.Sprintf("jack-%d-%s:marcus-%[1]d-%[2]s", thread, run))
		for i, m := range all {
			assert.Equal(t, fmt.Sprintf("message %d of thread %d in run %s", i+1, thread, run), m.Text)
		}
		stored += len(all)
	}
	assert.Equal(t, 200, stored)
}

func TestJMeter_FailsWhereNothingIsStored(t *testing.T) {
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/pull" {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			fmt.Fprint(w, `{"messages":[],"has_more":false,"next_cursor":0,"total":0}`)
		}
	}))
	t.Cleanup(stub.Close)
	status, said := jmeter(t, stub.Listener.Addr().String(), "-Jthreads=4", "-Jloops=5", "-Jrampup=0")
	assert.Equal(t, 1, status, said)
	samples, errors := row(t, said, "Send")
	assert.Equal(t, 20, samples, said)
	assert.Zero(t, errors, said)
	samples, errors = row(t, said, "Pull")
	assert.Equal(t, 20, samples, said)
	assert.Equal(t, 20, errors, said)
}

func TestJMeter_FailsWhereNobodyListens(t *testing.T) {
	stub := httptest.NewServer(http.NotFoundHandler())
	stub.Close()
	status, said := jmeter(t, stub.Listener.Addr().String(), "-Jthreads=1", "-Jloops=1", "-Jrampup=0")
	assert.Equal(t, 1, status, said)
	assert.Contains(t, said, "2 of 2 samples failed")
}
