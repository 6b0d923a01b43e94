package edge

import (
	"bytes"

	"golang.org/x/net/http/httpguts"
)

// ReadHead reads the header fields of a request as they were sent. closes reports whether the
// client wants the connection closed after the answer (RFC 9110, 7.6.1). ambiguity is why the
// end of the request is in doubt, so that a proxy in front may see another one in it (request
// smuggling, RFC 9112, 11.2); empty means that it is not.
func ReadHead(fields []byte, http11 bool) (closes bool, ambiguity string) {
	var hosts, lengths, codings int
	for line := range bytes.Lines(fields) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !httpguts.ValidHeaderFieldName(string(name)) {
			return closes, "a header field must be a name, a colon and a value, on one line" // RFC 9112, 5.1 and 5.2
		}
		switch {
		case bytes.EqualFold(name, []byte("Connection")): // a list without case, of which Hertz knows "close" alone
			closes = closes || httpguts.HeaderValuesContainsToken([]string{string(value)}, "close")
		case bytes.EqualFold(name, []byte("Host")):
			hosts++
		case bytes.EqualFold(name, []byte("Content-Length")):
			lengths++
			if len(bytes.Trim(bytes.TrimSpace(value), "0123456789")) > 0 {
				return closes, "Content-Length must be a number" // RFC 9110, 8.6
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			codings++
			if !bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked")) {
				return closes, "Transfer-Encoding must be chunked" // RFC 9112, 6.1
			}
		}
	}
	switch {
	case hosts > 1: // RFC 9112, 3.2
		return closes, "Host must be given once"
	case lengths+codings > 1: // RFC 9112, 6.3
		return closes, "Content-Length or Transfer-Encoding must be given once, and not both"
	case codings > 0 && !http11: // RFC 9112, 6.1
		return closes, "Transfer-Encoding needs HTTP/1.1"
	}
	return closes, ""
}
