package gateway

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bytedance/sonic/encoder"
	"github.com/cloudwego/hertz/pkg/app"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"im/http-server/edge"
)

// format is a way to write a request or an answer.
type format int

const (
	formatJSON format = iota
	formatProtobuf
)

func (f format) mediaType() string {
	return [...]string{"application/json", "application/x-protobuf"}[f]
}

// formatOf knows the media types of the formats; ok is false for any other.
// Parameters are ignored.
func formatOf(mediaType string) (f format, ok bool) {
	name, _, _ := strings.Cut(mediaType, ";")
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "application/json":
		return formatJSON, true
	case "application/x-protobuf", "application/protobuf":
		return formatProtobuf, true
	}
	return formatJSON, false
}

// decode reads a request from its body or, where that of a GET is empty, from the query string.
func (g *Gateway) decode(c *app.RequestContext, req proto.Message) error {
	body, err := g.readBody(c)
	if err != nil {
		return err
	}
	if len(body) == 0 && (c.IsGet() || c.IsHead()) {
		return decodeQuery(string(c.URI().QueryString()), req)
	}
	for _, coding := range c.Request.Header.PeekAll("Content-Encoding") {
		if !bytes.EqualFold(bytes.TrimSpace(coding), []byte("identity")) {
			c.Header("Accept-Encoding", "identity") // RFC 9110, 15.5.16
			return newProblem(http.StatusUnsupportedMediaType, "the body must have no Content-Encoding", nil)
		}
	}
	if f, _ := formatOf(string(c.ContentType())); f == formatProtobuf {
		return decodeProtobuf(body, req)
	}
	return decodeJSON(body, req)
}

func (g *Gateway) readBody(c *app.RequestContext) ([]byte, error) {
	var body []byte
	var err error
	length := c.Request.Header.ContentLength() // negative where the body is chunked
	if length <= g.MaxBodyBytes {
		body, err = g.readUpTo(c, g.MaxBodyBytes+1, length)
	}
	timeout := net.Error(nil)
	switch {
	case length > g.MaxBodyBytes || len(body) > g.MaxBodyBytes:
		err = newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", g.MaxBodyBytes), nil)
	case err == nil:
		return body, nil
	case errors.Is(err, edge.ErrNoRoom):
	case errors.As(err, &timeout) && timeout.Timeout():
		err = newProblem(http.StatusRequestTimeout, "the body took too long to arrive", nil)
	default:
		err = badRequest("the body cannot be read to its end")
	}
	// What follows is no request. Hertz reads a rest of moderate size after the
	// answer, so that the client gets to see it; any other is not worth reading.
	c.SetConnectionClose()
	if length < 0 || length > 8*g.MaxBodyBytes {
		c.Request.CloseBodyStream()
	}
	return nil, err
}

// readUpTo reads at most max bytes of the body. length is that of the whole body; negative
// means that it is not known.
func (g *Gateway) readUpTo(c *app.RequestContext, max, length int) ([]byte, error) {
	stream := c.RequestBodyStream()
	body, err := io.ReadAll(io.LimitReader(stream, edge.ThresholdBytes+1))
	if err != nil || len(body) <= edge.ThresholdBytes {
		return body, err
	}
	if length < 0 {
		length = max
	}
	if err := g.Buffers.Reserve(c, length); err != nil {
		return nil, err
	}
	all := bytes.NewBuffer(append(make([]byte, 0, length+bytes.MinRead), body...))
	_, err = all.ReadFrom(io.LimitReader(stream, int64(max-len(body))))
	return all.Bytes(), err
}

func decodeProtobuf(body []byte, req proto.Message) error {
	err := proto.Unmarshal(body, req)
	if err == nil {
		return nil
	}
	message := req.ProtoReflect().Descriptor()
	if field := notUTF8(body, message.Fields()); field != "" {
		return badRequest(string(field) + ": is not valid UTF-8")
	}
	return badRequest(fmt.Sprintf("the body is not a protobuf message %s", message.Name()))
}

// notUTF8 names the first string field whose bytes are not UTF-8; empty means
// none. Unmarshal finds such a field too, but does not say which.
func notUTF8(body []byte, fields protoreflect.FieldDescriptors) protoreflect.Name {
	for len(body) > 0 {
		number, wireType, tag := protowire.ConsumeTag(body)
		value := protowire.ConsumeFieldValue(number, wireType, body[max(tag, 0):])
		if tag < 0 || value < 0 {
			return ""
		}
		if f := fields.ByNumber(number); f != nil && f.Kind() == protoreflect.StringKind && wireType == protowire.BytesType {
			if text, _ := protowire.ConsumeBytes(body[tag:]); !utf8.Valid(text) {
				return f.Name()
			}
		}
		body = body[tag+value:]
	}
	return ""
}

func decodeJSON(body []byte, req proto.Message) error {
	if len(body) == 0 {
		return badRequest("the body is empty; it must be a JSON object or, by its Content-Type, a protobuf message")
	}
	err := json.Unmarshal(body, req)
	var semantic *json.SemanticError
	var broken *jsontext.SyntacticError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &semantic):
		return wrongType(fieldOf(semantic.JSONPointer, req))
	case errors.As(err, &broken) && errors.Is(err, jsontext.ErrDuplicateName):
		return badRequest(fieldOf(broken.JSONPointer, req) + ": is given more than once")
	case errors.As(err, &broken):
		return badRequest(fmt.Sprintf("%s: is not valid JSON at byte %d: %v", fieldOf(broken.JSONPointer, req), broken.ByteOffset, broken.Err))
	}
	return badRequest("the body is not valid JSON")
}

// fieldOf names the field of req that p is in. Where it is in none, that is the
// body: the names that clients make up are not repeated.
func fieldOf(p jsontext.Pointer, req proto.Message) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(string(p), "/"), "/")
	if req.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)) == nil {
		return "the body"
	}
	return name
}

// types are those of the fields that are no strings, in JSON's words.
var types = map[string]string{
	"the body": "an object",
	"cursor":   "an integer of 64 bits",
	"limit":    "an integer of 32 bits",
	"read":     "an integer of 64 bits",
	"reverse":  "true or false",
	"total":    "an integer of 64 bits",
	"wait":     "an integer of 32 bits",
}

func wrongType(field string) error {
	return badRequest(field + ": must be " + cmp.Or(types[field], "a string"))
}

// decodeQuery reads a query string. Parameters that req does not have are ignored.
func decodeQuery(query string, req proto.Message) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return badRequest("the query string is not well encoded")
	}
	message := req.ProtoReflect()
	fields := message.Descriptor().Fields()
	for name, given := range values {
		field := fields.ByName(protoreflect.Name(name))
		if field == nil {
			continue
		}
		if len(given) > 1 {
			return badRequest(name + ": is given more than once")
		}
		value, err := parseValue(field.Kind(), given[0])
		if err != nil {
			return wrongType(name)
		}
		message.Set(field, value)
	}
	return nil
}

// parseValue reads a value of a kind that requests have.
func parseValue(kind protoreflect.Kind, s string) (protoreflect.Value, error) {
	switch kind {
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(s, 10, 64)
		return protoreflect.ValueOfInt64(n), err
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(s, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.BoolKind: // in JSON's words alone, unlike strconv.ParseBool
		if s != "true" && s != "false" {
			return protoreflect.Value{}, strconv.ErrSyntax
		}
		return protoreflect.ValueOfBool(s == "true"), nil
	}
	return protoreflect.ValueOfString(s), nil
}

// encode writes an answer in the format that the request accepts, straight into a
// buffer that Hertz keeps.
func encode(c *app.RequestContext, resp proto.Message) error {
	body := c.Response.BodyBuffer()
	var err error
	f := answerFormat(c)
	c.SetContentType(f.mediaType())
	if f == formatProtobuf {
		body.B, err = proto.MarshalOptions{}.MarshalAppend(body.B, resp)
	} else {
		err = encoder.EncodeInto(&body.B, resp, 0)
	}
	return err
}

// answerFormat is the format of the highest q in Accept (RFC 9110, 12.5.1). A
// tie, a wildcard or nothing known means the request's own.
func answerFormat(c *app.RequestContext) format {
	requested, _ := formatOf(string(c.ContentType()))
	best, bestQ := requested, 0.0
	for option := range strings.SplitSeq(string(bytes.Join(c.Request.Header.PeekAll("Accept"), []byte(","))), ",") {
		name, params, _ := mime.ParseMediaType(option)
		f, known := formatOf(name)
		switch {
		case known:
		case name == "*/*" || name == "application/*":
			f = requested
		default:
			continue
		}
		q, err := strconv.ParseFloat(params["q"], 64)
		if err != nil || !(q >= 0 && q <= 1) {
			q = 1
		}
		switch {
		case q > bestQ:
			best, bestQ = f, q
		case q == bestQ && f != best:
			best = requested
		}
	}
	return best
}
