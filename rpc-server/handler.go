package main

import (
	"context"
	"errors"
	"log/slog"

	"im/rpc-server/chat"
	"im/rpc-server/kitex_gen/rpc"
)

// handler is IMService: Thrift in, chat calls, Thrift out. It gives no Go error
// for a request that failed, so that an error means transport to every client.
type handler struct {
	store   *chat.Store
	maxText int
}

func (h *handler) Send(ctx context.Context, req *rpc.SendRequest) (*rpc.SendResponse, error) {
	err := h.send(ctx, req)
	code, msg := outcome(ctx, err)
	return &rpc.SendResponse{Code: code, Msg: msg}, nil
}

func (h *handler) send(ctx context.Context, req *rpc.SendRequest) error {
	if req == nil || req.Message == nil {
		return errNoRequest
	}
	m, err := chat.NewMessage(req.Message.Chat, req.Message.Text, req.Message.Sender, req.Key, h.maxText)
	if err != nil {
		return err
	}
	_, err = h.store.Append(ctx, m)
	return err
}

func (h *handler) Pull(ctx context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	page, err := h.pull(ctx, req)
	code, msg := outcome(ctx, err)
	resp := &rpc.PullResponse{Code: code, Msg: msg}
	if err == nil {
		resp.HasMore, resp.NextCursor, resp.Total = &page.HasMore, &page.NextCursor, &page.Total
		messages := make([]rpc.Message, len(page.Entries)) // at once: one by one they cost more
		resp.Messages = make([]*rpc.Message, len(page.Entries))
		for i, e := range page.Entries {
			messages[i] = rpc.Message{Chat: req.Chat, Text: e.Text, Sender: e.Sender, SendTime: e.Time / 1e6}
			resp.Messages[i] = &messages[i]
		}
	}
	return resp, nil
}

func (h *handler) pull(ctx context.Context, req *rpc.PullRequest) (chat.Page, error) {
	if req == nil {
		return chat.Page{}, errNoRequest
	}
	q, err := chat.NewQuery(req.Chat, req.Cursor, req.Limit, req.GetReverse(), req.GetTotal())
	if err != nil {
		return chat.Page{}, err
	}
	return h.store.Page(ctx, q)
}

// errNoRequest is the fault of a client built from another IDL: its argument has
// another field id, so that nothing arrives.
const errNoRequest = chat.InvalidError("the request is missing")

// outcome turns an error into the Code and Msg of a response, and logs what is
// not the caller's fault. Msg is for the caller, the log for the operator.
func outcome(ctx context.Context, err error) (code int32, msg string) {
	var invalid chat.InvalidError
	switch {
	case err == nil:
		return int32(rpc.Code_OK), ""
	case errors.As(err, &invalid):
		slog.DebugContext(ctx, "refused", "err", err)
		return int32(rpc.Code_INVALID), invalid.Error()
	case errors.Is(err, chat.ErrUnavailable):
		slog.WarnContext(ctx, "unavailable", "err", err)
		return int32(rpc.Code_UNAVAILABLE), "the store is unavailable"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		slog.WarnContext(ctx, "too late", "err", err)
		return int32(rpc.Code_DEADLINE), "time ran out"
	default:
		slog.ErrorContext(ctx, "defect", "err", err)
		return int32(rpc.Code_INTERNAL), "internal error"
	}
}
