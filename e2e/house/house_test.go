// Package house tests how the code of the servers is laid out: which package may know
// which, that nothing stands twice, and that both servers are built with one profile.
package house

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

// root is the checkout, and the folder of the module im.
const root = "../.."

// rules has what each package of im may import of im. A name that ends in "/..." stands
// for the package and all below it; "-" before a name excludes it again.
var rules = map[string][]string{
	"im/http-server": {"im/http-server/...", "-im/http-server/backend/backendtest", "im/internal/..."},
	// The gateway declares the interface that it calls; of the backend it knows the errors.
	"im/http-server/gateway":             {"im/http-server/edge", "im/http-server/backend", "im/http-server/gateway/page", "im/internal/..."},
	"im/http-server/gateway/page":        {"im"}, // its documents
	"im":                                 {},
	"im/http-server/backend":             {"im/internal/..."},
	"im/http-server/backend/backendtest": {"im/internal/..."},
	"im/http-server/edge":                {"im/internal/...", "-im/internal/gen/rpc/..."},
	"im/rpc-server":                      {"im/rpc-server/...", "im/internal/..."},
	"im/rpc-server/registry":             {"im/internal/..."},
	"im/rpc-server/chat":                 {"im/internal/member"},
	"im/internal/...":                    {"im/internal/..."},
}

// testRules has what the tests of a package may import beside that.
var testRules = map[string][]string{
	"im/http-server/gateway": {"im/http-server/backend/backendtest"},
	"im/http-server/backend": {"im/http-server/backend/backendtest"},
}

// matches reports whether a name of the rules stands for the package.
func matches(name, pkg string) bool {
	above, open := strings.CutSuffix(name, "/...")
	return pkg == above || open && strings.HasPrefix(pkg, above+"/")
}

// ruleOf returns the rule of a package, and whether there is one.
func ruleOf(pkg string) (may []string, found bool) {
	for name, may := range rules {
		if matches(name, pkg) {
			return may, true
		}
	}
	return nil, false
}

// mayImport reports whether a package with this rule may import pkg.
func mayImport(rule []string, pkg string) bool {
	included := slices.ContainsFunc(rule, func(name string) bool { return matches(name, pkg) })
	excluded := slices.ContainsFunc(rule, func(name string) bool { return matches(strings.TrimPrefix(name, "-"), pkg) && name[0] == '-' })
	return included && !excluded
}

// golist returns what go list prints at root.
func golist(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"-C", root, "list"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, &stderr)
	return out
}

// TestImports_OfEachPackageAreAllowed looks at tests, too. A package without a rule fails
// it: which others a package may know is decided before it is written.
func TestImports_OfEachPackageAreAllowed(t *testing.T) {
	seen := map[string]bool{}
	for packages := json.NewDecoder(bytes.NewReader(golist(t, "-json", "./..."))); ; {
		var pkg struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		err := packages.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		seen[pkg.ImportPath] = true
		rule, found := ruleOf(pkg.ImportPath)
		assert.True(t, found, "%s has no rule", pkg.ImportPath)
		check := func(rule, imports []string) {
			for _, imported := range imports {
				if matches("im/...", imported) && imported != pkg.ImportPath { // which its external tests import
					assert.True(t, mayImport(rule, imported), "%s may not import %s", pkg.ImportPath, imported)
				}
			}
		}
		check(rule, pkg.Imports)
		check(slices.Concat(rule, testRules[pkg.ImportPath]), slices.Concat(pkg.TestImports, pkg.XTestImports))
	}
	for name := range rules {
		assert.True(t, seen[name] || strings.HasSuffix(name, "/..."), "there is no package %s", name)
	}
}

func TestImports_RulesForbidWhatTheyDoNotName(t *testing.T) {
	for from, to := range map[string]string{
		"im/http-server":         "im/http-server/backend/backendtest",
		"im/http-server/gateway": "im/rpc-server/chat",
		"im/http-server/backend": "im/http-server/edge",
		"im/http-server/edge":    "im/internal/gen/rpc/imservice",
		"im/rpc-server":          "im/http-server/edge",
		"im/rpc-server/registry": "im/rpc-server/chat",
		"im/rpc-server/chat":     "im/internal/logging",
		"im/internal/admin":      "im/http-server/edge",
	} {
		rule, found := ruleOf(from)
		assert.True(t, found, from)
		assert.False(t, mayImport(rule, to), "%s imports %s", from, to)
	}
	_, found := ruleOf("im/http-server/page")
	assert.False(t, found)
}

func TestServers_LinkNothingOfEachOther(t *testing.T) {
	servers := []string{"im/http-server", "im/rpc-server"}
	for i, server := range servers {
		deps := strings.Fields(string(golist(t, "-deps", server)))
		assert.Contains(t, deps, server)
		for _, pkg := range deps {
			assert.False(t, matches(servers[1-i]+"/...", pkg), "%s depends on %s", server, pkg)
		}
	}
}

func TestServers_AreBuiltWithTheProfileAtTheRoot(t *testing.T) {
	bin, err := stack.Build(t.Context(), root, stack.Shipped, func(what string) { t.Log(what) })
	require.NoError(t, err)
	profile, err := filepath.Abs(filepath.Join(root, "default.pgo"))
	require.NoError(t, err)
	for _, server := range []string{"http-server", "rpc-server"} {
		info, err := buildinfo.ReadFile(filepath.Join(bin, server))
		require.NoError(t, err)
		assert.Equal(t, "im/"+server, info.Path)
		assert.Contains(t, info.Settings, debug.BuildSetting{Key: "-pgo", Value: profile}, server)
	}
	profiles, err := filepath.Glob(root + "/*/default.pgo")
	require.NoError(t, err)
	assert.Empty(t, profiles, "the compiler would find one in a server's folder by itself")
}

// most is how many lines in a row two files may have in common.
const most = 9

// preamble matches the package clause and the import declarations of a Go file.
var preamble = regexp.MustCompile(`(?ms)^(package \w+|import \(.*?^\)|import "[^"]*")$`)

// word matches what a line must have to count: braces alone are no copy.
var word = regexp.MustCompile(`\w`)

// line is a line that counts, without the space around it.
type line struct {
	number int // from 1
	text   string
}

// linesOf returns the lines that count of a file.
func linesOf(text string) []line {
	text = preamble.ReplaceAllStringFunc(text, func(block string) string { return strings.Repeat("\n", strings.Count(block, "\n")) })
	var lines []line
	for i, l := range strings.Split(text, "\n") {
		if word.MatchString(l) {
			lines = append(lines, line{i + 1, strings.TrimSpace(l)})
		}
	}
	return lines
}

// copies returns where two files have more than most lines in a row in common: of each two,
// the first place. files has their texts by their names.
func copies(files map[string]string) []string {
	type place struct {
		file   string
		number int
	}
	var found []string
	first := map[string][]place{} // by the lines
	paired := map[[2]string]bool{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		lines := linesOf(files[file])
		for i := range len(lines) - most {
			var window strings.Builder
			for _, l := range lines[i : i+most+1] {
				window.WriteString(l.text + "\n")
			}
			for _, p := range first[window.String()] {
				if p.file != file && !paired[[2]string{p.file, file}] {
					paired[[2]string{p.file, file}] = true
					found = append(found, fmt.Sprintf("%s:%d and %s:%d", p.file, p.number, file, lines[i].number))
				}
			}
			first[window.String()] = append(first[window.String()], place{file, lines[i].number})
		}
	}
	return found
}

// TestCopies_NoTwoFilesHaveTenLinesInCommon reads the Go and Lua files of both servers that
// are written by hand, except tests. Package clauses, imports and lines without a word do
// not count, and neither does indentation.
func TestCopies_NoTwoFilesHaveTenLinesInCommon(t *testing.T) {
	files := map[string]string{}
	for _, dir := range []string{"http-server", "rpc-server", "internal"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if path == filepath.Join(root, "internal/gen") {
					return filepath.SkipDir
				}
				return nil
			}
			if ext := filepath.Ext(path); ext != ".lua" && (ext != ".go" || strings.HasSuffix(path, "_test.go")) {
				return nil
			}
			text, err := os.ReadFile(path)
			files[strings.TrimPrefix(path, root+"/")] = string(text)
			return err
		}))
	}
	assert.Contains(t, files, "http-server/main.go")
	assert.Contains(t, files, "rpc-server/chat/append.lua")
	assert.Empty(t, copies(files))
}

func TestCopies_AreFoundWhateverStandsAroundThem(t *testing.T) {
	var ten []string
	for i := range most + 1 {
		ten = append(ten, fmt.Sprintf("a%d := %d", i, i))
	}
	file := func(lines []string, indent, between string) string {
		return "package p\n\nimport (\n\t\"fmt\"\n)\n\n" + indent + strings.Join(lines, between+"\n"+indent) + "\n}\n"
	}
	assert.Equal(t, []string{"a.go:7 and b.go:7"}, copies(map[string]string{"a.go": file(ten, "", ""), "b.go": file(ten, "\t", "\n\t}")}))
	assert.Empty(t, copies(map[string]string{"a.go": file(ten[1:], "", ""), "b.go": file(ten, "", "")}))
	assert.Empty(t, copies(map[string]string{"a.go": strings.Repeat(file(ten, "", ""), 2)}), "one file")
}
