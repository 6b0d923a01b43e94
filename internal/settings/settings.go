// Package settings reads the settings of a server: a flag and an environment variable
// each.
package settings

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/alecthomas/kong"

	"im/internal/logging"
)

// Common are the settings that both servers have.
type Common struct {
	AdminListen string     `default:"${admin_listen}" help:"Address of /healthz, /readyz, /metrics and /loglevel."`
	Pprof       bool       `help:"Serve /debug/pprof on the admin address."`
	LogLevel    slog.Level `default:"info" help:"Least level of log lines: debug, info, warn or error."`
	GCPercent   int        `name:"gogc" default:"400" min:"1" help:"How far the heap may grow before it is collected, in percent of what is live (Go's GOGC). Nine tenths of the container's memory are a bound, or GOMEMLIMIT where that is set."`

	Serve       struct{} `cmd:"" default:"withargs" hidden:""`
	Healthcheck struct{} `cmd:"" help:"Ask a running server whether it is ready; exit 0 or 1."`
	Settings    Page     `cmd:"" hidden:""`

	Command string `kong:"-"` // that is given
}

// Apply sets the log level and the bounds of the heap, and logs each of the risks that
// the settings take.
func (c *Common) Apply(risks []string) {
	logging.Level.Set(c.LogLevel)
	debug.SetGCPercent(c.GCPercent)
	if _, err := memlimit.Set(); err != nil {
		slog.Debug("the heap has no limit", "err", err)
	}
	for _, risk := range risks {
		slog.Warn("insecure: " + risk)
	}
}

// Insecure lists the settings that are for a network where nobody else is.
func (c *Common) Insecure() []string {
	return Risks(map[string]bool{
		"profiles are served to all who reach ADMIN_LISTEN: PPROF is set": c.Pprof && Reachable(c.AdminListen),
	})
}

// Parse reads args and the environment into cfg, a pointer to a struct of flags that embeds
// Common. An environment variable that is empty counts as unset. A flag with the tag min
// must not be below that number. Parse returns the command that is given. It prints the help and exits when asked to. The error names the setting
// that is wrong.
func Parse(args []string, cfg any, description, adminListen string) (command string, err error) {
	for _, variable := range os.Environ() {
		if name, ok := strings.CutSuffix(variable, "="); ok {
			os.Unsetenv(name)
		}
	}
	parser, err := kong.New(cfg, kong.DefaultEnvars(""), kong.Description(description), kong.Vars{"admin_listen": adminListen})
	if err != nil {
		return "", err
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return "", err
	}
	for _, flag := range parser.Model.Flags {
		if err := checkMin(flag); err != nil {
			return "", err
		}
	}
	return parsed.Command(), nil
}

func checkMin(flag *kong.Flag) error {
	if !flag.Tag.Has("min") {
		return nil
	}
	least, err := flag.Tag.GetInt("min")
	switch value := flag.Target; {
	case err != nil:
		return err
	case !value.CanInt():
		return fmt.Errorf("%s: min is for numbers, not for a %s", flag.Name, reflect.TypeOf(value.Interface()))
	case value.Int() >= least:
		return nil
	case least == 1:
		return fmt.Errorf("%s: must be more than 0", flag.Envs[0])
	default:
		return fmt.Errorf("%s: must not be below %d", flag.Envs[0], least)
	}
}

// Secret returns the secret that a file holds, without the newline that editors leave.
func Secret(file []byte) string { return strings.TrimRight(string(file), "\r\n") }

// CheckHostPort returns nil if address is a host:port that can be called.
func CheckHostPort(address string) error {
	host, service, err := net.SplitHostPort(address)
	port, unknown := net.LookupPort("tcp", service)
	if err != nil || unknown != nil || port == 0 || host == "" || strings.ContainsAny(host, " /@") {
		return fmt.Errorf("must be host:port, not %q", address)
	}
	return nil
}

// Reachable reports whether any of the addresses, each a host:port, may be reached from beyond
// this machine.
func Reachable(addresses ...string) bool {
	return slices.ContainsFunc(addresses, func(address string) bool {
		host, _, err := net.SplitHostPort(address)
		return err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback()
	})
}

// Risks returns the keys of taken that are true, sorted.
func Risks(taken map[string]bool) []string {
	maps.DeleteFunc(taken, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(taken))
}
