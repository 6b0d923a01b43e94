// Package member knows when two names are those of one member.
package member

import (
	"strings"
	"unicode"
)

// Fold returns a name in the one form that all names of its member have. A letter is
// lower-cased where its lower-case form upper-cases back to it, and kept otherwise: so that
// İ is not i, and the Kelvin sign is not k, and nobody is taken for another one by it.
func Fold(name string) string {
	return strings.Map(func(letter rune) rune {
		if lower := unicode.ToLower(letter); unicode.ToUpper(lower) == letter {
			return lower
		}
		return letter
	}, name)
}
