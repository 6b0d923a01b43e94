package main

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"im/http-server/api_gen/api"
)

// format is a way to write a request or an answer.
type format int

const (
	formatJSON format = iota
	formatProtobuf
)

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

// decode reads a request from its body or, where that is empty and the request
// is one that may, from the query string. maxBody is in bytes.
func decode(c *app.RequestContext, maxBody int, req proto.Message) error {
	body, err := readBody(c, maxBody)
	if err != nil {
		return err
	}
	if pull, ok := req.(*api.PullRequest); ok && len(body) == 0 {
		return decodeQuery(string(c.URI().QueryString()), pull)
	}
	if f, _ := formatOf(string(c.ContentType())); f == formatProtobuf {
		return decodeProtobuf(body, req)
	}
	return decodeJSON(body, req)
}

func readBody(c *app.RequestContext, most int) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(c.RequestBodyStream(), int64(most)+1))
	if err != nil || len(body) > most {
		c.SetConnectionClose() // what follows is no request, or would be read for nothing
	}
	if err != nil {
		return nil, badRequest("the body cannot be read to its end")
	}
	if len(body) > most {
		return nil, newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", most), nil)
	}
	return body, nil
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
	var wrongType *json.SemanticError
	var broken *jsontext.SyntacticError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrongType):
		return badRequest(fmt.Sprintf("%s: must be %s, not %s", fieldOf(wrongType.JSONPointer), typeOf(wrongType), kindOf(wrongType.JSONKind)))
	case errors.As(err, &broken) && errors.Is(err, jsontext.ErrDuplicateName):
		return badRequest(fieldOf(broken.JSONPointer) + ": is given more than once")
	case errors.As(err, &broken):
		return badRequest(fmt.Sprintf("%s: is not valid JSON at byte %d: %v", fieldOf(broken.JSONPointer), broken.ByteOffset, broken.Err))
	}
	return badRequest("the body is not valid JSON")
}

// fieldOf names the member of the body that p is in.
func fieldOf(p jsontext.Pointer) string {
	field, _, _ := strings.Cut(strings.TrimPrefix(string(p), "/"), "/")
	if field == "" || len(field) > 40 {
		return "the body"
	}
	return field
}

// typeOf tells in JSON's words what type was wanted.
func typeOf(err *json.SemanticError) string {
	switch err.GoType.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int32:
		return "an integer of 32 bits"
	case reflect.Int64:
		return "an integer of 64 bits"
	}
	return "an object"
}

// kindOf tells in JSON's words what was there instead.
func kindOf(k jsontext.Kind) string {
	switch k {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '0':
		return "this number"
	case '"':
		return "a string"
	}
	return k.String()
}

// decodeQuery reads a query string. Parameters that a PullRequest does not have
// are ignored.
func decodeQuery(query string, req *api.PullRequest) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return badRequest("the query string is not well encoded")
	}
	for _, p := range []struct {
		name  string
		parse func(string) error
		want  string
	}{
		{"chat", func(s string) error { req.Chat = s; return nil }, ""},
		{"cursor", func(s string) (err error) { req.Cursor, err = strconv.ParseInt(s, 10, 64); return }, "an integer of 64 bits"},
		{"limit", func(s string) error { n, err := strconv.ParseInt(s, 10, 32); req.Limit = int32(n); return err }, "an integer of 32 bits"},
		{"reverse", func(s string) error {
			req.Reverse = s == "true"
			if !req.Reverse && s != "false" {
				return strconv.ErrSyntax
			}
			return nil
		}, "true or false"},
		{"total", func(s string) (err error) { req.Total, err = strconv.ParseInt(s, 10, 64); return }, "an integer of 64 bits"},
	} {
		given := values[p.name]
		if len(given) == 0 {
			continue
		}
		if len(given) > 1 {
			return badRequest(p.name + ": is given more than once")
		}
		if err := p.parse(given[0]); err != nil {
			return badRequest(fmt.Sprintf("%s: must be %s, not %.40q", p.name, p.want, given[0]))
		}
	}
	return nil
}

// encode writes an answer in the format that the request accepts.
func encode(c *app.RequestContext, resp proto.Message) error {
	if answerFormat(c) == formatProtobuf {
		body, err := proto.Marshal(resp)
		if err != nil {
			return err
		}
		c.Data(http.StatusOK, "application/x-protobuf", body)
		return nil
	}
	body, err := json.Marshal(resp)
	if err != nil {
		return err
	}
	c.Data(http.StatusOK, "application/json", body)
	return nil
}

// answerFormat is the format of the highest q in Accept (RFC 9110, 12.5.1). A
// tie, a wildcard or nothing known means the request's own.
func answerFormat(c *app.RequestContext) format {
	own, _ := formatOf(string(c.ContentType()))
	best, bestQ := own, 0.0
	for _, header := range c.Request.Header.PeekAll("Accept") {
		for option := range strings.SplitSeq(string(header), ",") {
			f, known := formatOf(option)
			if !known && !strings.Contains(option, "*") {
				continue
			}
			if !known {
				f = own
			}
			switch q := quality(option); {
			case q > bestQ:
				best, bestQ = f, q
			case q == bestQ && f != best:
				best = own
			}
		}
	}
	return best
}

// quality is the q of an option in Accept: 1 if it has none or it is broken.
func quality(option string) float64 {
	_, params, err := mime.ParseMediaType(option)
	if err != nil {
		return 1
	}
	q, err := strconv.ParseFloat(params["q"], 64)
	if err != nil {
		return 1
	}
	return q
}
