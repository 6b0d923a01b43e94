package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"im/internal/gen/rpc"
	"im/rpc-server/chat"
)

// handler is IMService: Thrift in, chat calls, Thrift out. It returns no Go error
// for a request that failed, so that an error means transport to every client.
type handler struct {
	store   *chat.Store
	hints   *hints
	maxText int
	metrics *metrics
	tracing bool
	// maxInFlight is how many calls are served at a time. Any more are answered at once
	// with Code UNAVAILABLE, so that what is being served keeps its speed. (Kitex's own
	// limiter closes their connections.)
	maxInFlight int64
	inFlight    atomic.Int64
}

func (h *handler) Send(ctx context.Context, req *rpc.SendRequest) (*rpc.SendResponse, error) {
	return h.sends(ctx, req)[0], nil
}

func (h *handler) SendMany(ctx context.Context, reqs []*rpc.SendRequest) ([]*rpc.SendResponse, error) {
	return h.sends(ctx, reqs...), nil
}

func (h *handler) sends(ctx context.Context, reqs ...*rpc.SendRequest) []*rpc.SendResponse {
	resps := make([]*rpc.SendResponse, len(reqs))
	for i, a := range serve(ctx, h, "Send", reqs, h.message, h.append) {
		resps[i] = &rpc.SendResponse{Code: int32(a.code), Msg: a.msg}
	}
	return resps
}

// append stores messages, and tells who waits for them.
func (h *handler) append(ctx context.Context, ms ...chat.Message) []chat.Result[int64] {
	results := h.store.Append(ctx, ms...)
	for i, stored := range results {
		if stored.Err == nil {
			h.hints.stored(ms[i].Room(), stored.Value)
		}
	}
	return results
}

func (h *handler) message(req *rpc.SendRequest) (chat.Message, error) {
	if req == nil || req.Message == nil {
		return chat.Message{}, errNoRequest
	}
	return chat.NewMessage(req.Message.Chat, req.Message.Text, req.Message.Sender, req.Key, h.maxText)
}

func (h *handler) Pull(ctx context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	return h.pulls(ctx, one(h.store.Page), req)[0], nil
}

func (h *handler) PullMany(ctx context.Context, reqs []*rpc.PullRequest) ([]*rpc.PullResponse, error) {
	return h.pulls(ctx, h.store.FirstParts, reqs...), nil
}

func (h *handler) pulls(ctx context.Context, read func(context.Context, ...chat.Query) []chat.Result[chat.Page], reqs ...*rpc.PullRequest) []*rpc.PullResponse {
	resps := make([]*rpc.PullResponse, len(reqs))
	for i, a := range serve(ctx, h, "Pull", reqs, query, read) {
		resp := &rpc.PullResponse{Code: int32(a.code), Msg: a.msg}
		resps[i] = resp
		if a.code != rpc.Code_OK {
			continue
		}
		page := &a.value
		resp.HasMore, resp.NextCursor, resp.Total = &page.HasMore, &page.NextCursor, &page.Total
		messages := make([]rpc.Message, len(page.Entries)) // at once: one by one they cost more
		resp.Messages = make([]*rpc.Message, len(page.Entries))
		for n, e := range page.Entries {
			messages[n] = rpc.Message{Chat: reqs[i].Chat, Text: e.Text, Sender: e.Sender, SendTime: e.Time / 1e6}
			resp.Messages[n] = &messages[n]
		}
	}
	return resps
}

func query(req *rpc.PullRequest) (chat.Query, error) {
	if req == nil {
		return chat.Query{}, errNoRequest
	}
	return chat.NewQuery(req.Chat, req.Cursor, req.Limit, req.GetReverse(), req.GetTotal())
}

func (h *handler) Totals(ctx context.Context, names []string) ([]int64, error) {
	totals := make([]int64, len(names))
	var rooms []chat.Room
	var places []int
	var members sync.WaitGroup
	for i, name := range names {
		totals[i] = rpc.UNKNOWN_TOTAL
		if room, err := chat.ParseFoldedRoom(name); err == nil {
			rooms, places = append(rooms, room), append(places, i)
		} else if member, err := chat.ParseFoldedMember(name); err == nil {
			members.Go(func() {
				if total, err := h.store.Total(ctx, member); err == nil {
					totals[i] = total
				}
			})
		}
	}
	for i, total := range h.store.Totals(ctx, rooms...) {
		if total.Err == nil {
			totals[places[i]] = total.Value
		}
	}
	members.Wait()
	return totals, nil
}

func (h *handler) Chats(ctx context.Context, req *rpc.ChatsRequest) (*rpc.ChatsResponse, error) {
	a := serve(ctx, h, "Chats", []*rpc.ChatsRequest{req}, listQuery, one(h.store.Chats))[0]
	resp := &rpc.ChatsResponse{Code: int32(a.code), Msg: a.msg}
	if a.code != rpc.Code_OK {
		return resp, nil
	}
	list := &a.value
	resp.HasMore, resp.NextCursor, resp.Total, resp.Count = &list.HasMore, &list.NextCursor, &list.Total, &list.Count
	resp.Chats = make([]*rpc.Chat, len(list.Chats))
	for i, c := range list.Chats {
		name := c.Room.String()
		resp.Chats[i] = &rpc.Chat{
			Chat: name, Total: c.Total, Mark: c.Read, Unread: int32(c.Unread),
			Last: &rpc.Message{Chat: name, Text: c.Last.Text, Sender: c.Last.Sender, SendTime: c.Last.Time / 1e6},
		}
	}
	return resp, nil
}

func listQuery(req *rpc.ChatsRequest) (chat.ListQuery, error) {
	if req == nil {
		return chat.ListQuery{}, errNoRequest
	}
	return chat.NewListQuery(req.Member, req.Cursor, req.Limit)
}

func (h *handler) Read(ctx context.Context, req *rpc.ReadRequest) (*rpc.ReadResponse, error) {
	a := serve(ctx, h, "Read", []*rpc.ReadRequest{req}, mark, one(h.store.Mark))[0]
	resp := &rpc.ReadResponse{Code: int32(a.code), Msg: a.msg}
	if a.code == rpc.Code_OK {
		resp.Mark = &a.value
	}
	return resp, nil
}

func mark(req *rpc.ReadRequest) (chat.Mark, error) {
	if req == nil {
		return chat.Mark{}, errNoRequest
	}
	return chat.NewMark(req.Chat, req.Member, req.Mark)
}

// one has a call that is made alone look like several that came together.
func one[In, Out any](do func(context.Context, In) (Out, error)) func(context.Context, ...In) []chat.Result[Out] {
	return func(ctx context.Context, ins ...In) []chat.Result[Out] {
		out, err := do(ctx, ins[0])
		return []chat.Result[Out]{{Value: out, Err: err}}
	}
}

func (h *handler) Listen(ctx context.Context, stream rpc.IMService_ListenServer) error {
	return h.hints.listen(ctx, stream)
}

// errNoRequest is the fault of a client built from another IDL: its argument has
// another field id, so that nothing arrives.
const errNoRequest = chat.InvalidError("the request is missing")

var errOverload = errors.New("as many calls as MAX_IN_FLIGHT allows are being served")

// answer is what a call comes to.
type answer[T any] struct {
	value T
	code  rpc.Code
	msg   string // for the caller, empty with code OK
}

// serve answers calls of a method that came together: it parses each request, and has do
// return a result for each that is valid, all at a time.
func serve[Req request, In, Out any](ctx context.Context, h *handler, method string, reqs []Req,
	parse func(Req) (In, error), do func(context.Context, ...In) []chat.Result[Out],
) []answer[Out] {
	admitted := h.admit(len(reqs))
	defer h.inFlight.Add(int64(-admitted))
	end := h.metrics.begin(method, len(reqs))
	spans := make([]span, len(reqs))
	results := make([]chat.Result[Out], len(reqs))
	ins, places := make([]In, 0, admitted), make([]int, 0, admitted)
	for i, req := range reqs {
		if i >= admitted {
			results[i].Err = errOverload
			continue
		}
		in, err := parse(req)
		if results[i].Err = err; h.tracing && err != errNoRequest {
			spans[i].begin(requestContext(ctx, req), method, err == nil)
		}
		if err == nil {
			ins, places = append(ins, in), append(places, i)
		}
	}
	if len(ins) > 0 {
		for i, result := range do(ctx, ins...) {
			results[places[i]] = result
		}
	}
	answers, codes := make([]answer[Out], len(reqs)), make([]rpc.Code, len(reqs))
	for i, result := range results {
		a := &answers[i]
		a.value = result.Value
		call := ctx
		if err := result.Err; err != nil && err != errNoRequest {
			call = requestContext(ctx, reqs[i]) // for the log
		}
		a.code, a.msg = outcome(call, result.Err)
		codes[i] = a.code
		spans[i].end(a.code)
	}
	end(codes)
	return answers
}

// admit returns how many of n calls have room: the first ones of them are served.
func (h *handler) admit(n int) int {
	for {
		before := h.inFlight.Load()
		admitted := max(0, min(int64(n), h.maxInFlight-before))
		if h.inFlight.CompareAndSwap(before, before+admitted) {
			h.metrics.shed.Add(float64(int64(n) - admitted))
			return int(admitted)
		}
	}
}

// outcome turns an error into the Code and Msg of a response, and logs what is
// not the caller's fault. Msg is for the caller, the log for the operator.
func outcome(ctx context.Context, err error) (code rpc.Code, msg string) {
	var invalid chat.InvalidError
	switch {
	case err == nil:
		return rpc.Code_OK, ""
	case errors.As(err, &invalid):
		slog.DebugContext(ctx, "refused", "err", err)
		return rpc.Code_INVALID, invalid.Error()
	case errors.Is(err, errOverload), errors.Is(err, chat.ErrQueueFull):
		slog.WarnContext(ctx, "unavailable", "err", err)
		return rpc.Code_UNAVAILABLE, rpc.MSG_OVERLOAD
	case errors.Is(err, chat.ErrUnavailable):
		slog.WarnContext(ctx, "unavailable", "err", err)
		return rpc.Code_UNAVAILABLE, "the store is unavailable"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		slog.WarnContext(ctx, "too late", "err", err)
		return rpc.Code_DEADLINE, "time ran out"
	default:
		slog.ErrorContext(ctx, "defect", "err", err)
		return rpc.Code_INTERNAL, "internal error"
	}
}
