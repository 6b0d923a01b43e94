package member

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFold(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"jack": "jack", "Jack": "jack", "JACK": "jack", "ÄRGER 🙂": "ärger 🙂", "ΣΊΣΥΦΟΣ": "σίσυφοσ", "ЖУК": "жук",
		"İrem":     "İrem",     // U+0130, whose lower case is i
		"ırem":     "ırem",     // U+0131, whose upper case is I
		"\u212aim": "\u212aim", // the Kelvin sign, whose lower case is k
		"\u212bsa": "\u212bsa", // the Angstrom sign, whose lower case is å
		"ſam":      "ſam",      // whose upper case is S
		"straße":   "straße",
		"STRAẞE":   "stra" + capitalSharpS + "e",
		"ς":        "ς", // whose upper case is Σ
		"ǅ":        "ǅ", // in title case, whose lower case has another upper case
		"Ǆ":        "ǆ",
	} {
		assert.Equal(t, want, Fold(name), name)
		assert.Equal(t, want, Fold(want), "folding twice changes nothing")
	}
	for _, other := range []string{"İ", "\u212a", "\u212b", "ſ", "ß", "ς", "ǅ", "ı"} {
		for _, same := range []string{"i", "k", "å", "s", "ss", "σ", "ǆ"} {
			assert.NotEqual(t, Fold(same), Fold(other), "%q is not %q", other, same)
			assert.NotEqual(t, Fold(strings.ToUpper(same)), Fold(other), "%q is not %q", other, strings.ToUpper(same))
		}
	}
}

// capitalSharpS is what Fold makes of ẞ (U+1E9E): ß has no upper case of one letter in
// Unicode's simple mapping, so that the letter is kept.
const capitalSharpS = "ẞ"
