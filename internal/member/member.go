// Package member knows when two names are those of one member.
package member

import (
	"strings"
	"unicode"
)

// MaxBytes is the most bytes that a name may have, as its member writes it.
const MaxBytes = 128

// MaxFoldedBytes is the most bytes that a folded name may have: a letter of two bytes, as Ⱥ, may
// become one of three.
const MaxFoldedBytes = MaxBytes * 3 / 2

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

// Pair returns the folded names of two members in the one order that all their chats have.
func Pair(a, b string) (first, second string) {
	a, b = Fold(a), Fold(b)
	return min(a, b), max(a, b)
}

// Room returns the one name of the chat of two members: their Pair, joined by a colon.
func Room(a, b string) string {
	first, second := Pair(a, b)
	return first + ":" + second
}
