// Package im has the documents that the page at / links to.
package im

import _ "embed"

// README is README.md.
//
//go:embed README.md
var README []byte

// Postman is the collection of all calls for Postman.
//
//go:embed docs/im.postman_collection.json
var Postman []byte
