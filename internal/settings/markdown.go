package settings

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Page is the command that prints the settings of a server as its section of
// docs/settings.md.
type Page struct{}

// BeforeReset is called by kong where the command is given, before the environment is read.
// It does not return.
func (Page) BeforeReset(parser *kong.Kong) error {
	if err := markdown(parser.Stdout, parser.Model); err != nil {
		return err
	}
	parser.Exit(0)
	return nil
}

// markdown writes a table below the name of the server. Each flag that --help shows is a
// row with its environment variable, its default and its help.
func markdown(w io.Writer, server *kong.Application) error {
	var page strings.Builder
	fmt.Fprintf(&page, "## %s\n\n| setting | default | |\n|---|---|---|\n", server.Name)
	for _, flag := range server.Flags {
		if flag.Hidden || len(flag.Envs) == 0 { // --help itself has no variable
			continue
		}
		fallback := flag.Default
		if fallback == "" && flag.IsBool() {
			fallback = "false"
		}
		if fallback != "" {
			fallback = "`" + fallback + "` "
		}
		fmt.Fprintf(&page, "| `%s` | %s| %s |\n", flag.Envs[0], fallback, strings.ReplaceAll(flag.Help, "|", `\|`))
	}
	_, err := io.WriteString(w, page.String())
	return err
}
