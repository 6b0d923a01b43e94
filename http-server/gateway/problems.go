package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/go-json-experiment/json"

	"im/http-server/backend"
	"im/http-server/edge"
	"im/internal/gen/rpc"
)

// problem is an error as the caller sees it, in the form of RFC 9457.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what to change, in words for the caller.
	Detail string `json:"detail"`

	cause error // for the log; nil where the detail says all
}

func (p *problem) Error() string { return p.Detail }

func newProblem(status int, detail string, cause error) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, cause: cause}
}

// badRequest is a request that breaks a rule; detail says which.
func badRequest(detail string) *problem { return newProblem(http.StatusBadRequest, detail, nil) }

func unavailable(cause error) *problem {
	return newProblem(http.StatusServiceUnavailable, "the service is unavailable for now; try again later, a send with the same Idempotency-Key", cause)
}

func late(cause error) *problem {
	return newProblem(http.StatusGatewayTimeout, "the service took too long; try again later, a send with the same Idempotency-Key", cause)
}

// answered is a response of an rpc-server.
type answered interface {
	GetCode() int32
	GetMsg() string
}

// failure returns the error of a call whose response or error is given. nil is success.
func failure(resp answered, err error) error {
	if err != nil {
		return err
	}
	if resp.GetCode() == int32(rpc.Code_OK) {
		return nil
	}
	cause := errors.New("rpc-server: " + resp.GetMsg())
	switch rpc.Code(resp.GetCode()) {
	case rpc.Code_INVALID:
		return badRequest(resp.GetMsg())
	case rpc.Code_UNAVAILABLE:
		return unavailable(cause)
	case rpc.Code_DEADLINE:
		return late(cause)
	}
	return cause
}

// problemOf returns the problem that err is. An error that is not known is a defect.
func problemOf(err error) *problem {
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, backend.ErrLate):
		return late(err)
	case errors.Is(err, backend.ErrUnavailable), errors.Is(err, backend.ErrOverload), errors.Is(err, edge.ErrNoRoom), errors.Is(err, errWaiters):
		return unavailable(err)
	}
	return newProblem(http.StatusInternalServerError, "the service has a defect, which its log describes", err)
}

// refuse answers with the problem that err is.
func refuse(ctx context.Context, c *app.RequestContext, err error) {
	p := problemOf(err)
	level := slog.LevelDebug
	switch p.Status {
	case http.StatusInternalServerError:
		level = slog.LevelError
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		level = slog.LevelWarn
		c.Header("Retry-After", "1")
	}
	slog.Log(ctx, level, "refused", "status", p.Status, "path", string(c.Path()), "detail", p.Detail, "err", p.cause)
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of strings and a number
	}
	c.Response.ResetBody() // of an answer that was begun
	c.Data(p.Status, "application/problem+json", body)
}
