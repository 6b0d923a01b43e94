package gateway

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"im/http-server/backend/backendtest"
)

func TestPage_IsServedWithAPolicyOfItsOwn(t *testing.T) {
	with := wide()
	with.made = func(g *Gateway) { g.Page = true }
	base, without := serveBounded(t, dialStub(t, backendtest.New()), with), serve(t, backendtest.New())
	for path, mediaType := range map[string]string{
		"/": "text/html; charset=utf-8", "/app.css": "text/css; charset=utf-8", "/app.js": "text/javascript; charset=utf-8", "/icon.svg": "image/svg+xml",
		"/README.md": "text/plain; charset=utf-8", "/im.postman_collection.json": "application/json",
	} {
		resp, body := call(t, "GET", base+path, "")
		assert.Equal(t, http.StatusOK, resp.StatusCode, path)
		assert.NotEmpty(t, body, path)
		assert.Equal(t, mediaType, resp.Header.Get("Content-Type"), path)
		assert.Equal(t, "no-cache", resp.Header.Get("Cache-Control"), path)
		assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"), path)
		assert.Equal(t, "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			resp.Header.Get("Content-Security-Policy"), path)

		etag := resp.Header.Get("ETag")
		assert.Regexp(t, `^"[\w-]{16}"$`, etag, path)
		for asked, status := range map[string]int{etag: 304, "W/" + etag: 304, `"other", ` + etag: 304, `"other"`: 200} {
			resp, body := call(t, "GET", base+path, "", "If-None-Match", asked)
			assert.Equal(t, status, resp.StatusCode, path)
			assert.Equal(t, etag, resp.Header.Get("ETag"), path)
			assert.Equal(t, status == 304, len(body) == 0, path)
		}
		resp, body = call(t, "HEAD", base+path, "")
		assert.Equal(t, http.StatusOK, resp.StatusCode, path)
		assert.Empty(t, body, path)
		resp, _ = call(t, "POST", base+path, "")
		assert.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode, path)

		resp, _ = call(t, "GET", without+path, "")
		assert.Equal(t, http.StatusNotFound, resp.StatusCode, "%s, switched off", path)
	}
	resp, _ := call(t, "GET", base+"/ping", "")
	assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	assert.Equal(t, "default-src 'none'; frame-ancestors 'none'", resp.Header.Get("Content-Security-Policy"))
}
