// Package page is the page at /, by which people try the service in a browser.
package page

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/cloudwego/hertz/pkg/app"

	"im"
)

var (
	//go:embed index.html
	index []byte
	//go:embed app.css
	style []byte
	//go:embed app.js
	script []byte
	//go:embed icon.svg
	icon []byte
)

// policy lets the page use what the gateway serves, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Routes has what answers each path of the page, and of the documents that it links to.
var Routes = map[string]app.HandlerFunc{
	"/":         serve("text/html; charset=utf-8", index),
	"/app.css":  serve("text/css; charset=utf-8", style),
	"/app.js":   serve("text/javascript; charset=utf-8", script),
	"/icon.svg": serve("image/svg+xml", icon),
	// As plain text browsers show it, where they would save text/markdown.
	"/README.md":                  serve("text/plain; charset=utf-8", im.README),
	"/im.postman_collection.json": serve("application/json", im.Postman),
}

// serve answers with content. A browser that has it already is told so by its entity tag (RFC 9110, 8.8.3).
func serve(mediaType string, content []byte) app.HandlerFunc {
	sum := sha256.Sum256(content)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	return func(_ context.Context, c *app.RequestContext) {
		c.Header("Cache-Control", "no-cache") // to be asked for again each time
		c.Header("Content-Security-Policy", policy)
		c.Header("ETag", etag)
		if strings.Contains(string(c.GetHeader("If-None-Match")), etag) { // which may be a list, of weak tags, too
			c.Status(http.StatusNotModified)
			return
		}
		c.Data(http.StatusOK, mediaType, content)
	}
}
