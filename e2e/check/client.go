package check

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// timeout is how long the answer to a request may take that does not wait.
const timeout = 30 * time.Second

// client speaks to one of the gateways, until that closes its connections.
type client struct {
	urls    []string
	dials   int
	current *atomic.Uint64 // modulo the number of urls
	http    *http.Client
}

func newClient(o Options) client {
	return client{o.URLs, cmp.Or(o.Dials, len(o.URLs)), new(atomic.Uint64), &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableKeepAlives: o.Unkept},
	}}
}

// page is what a pull gives.
type page struct {
	Messages []struct {
		Text     string `json:"text"`
		SendTime int64  `json:"send_time"`
	} `json:"messages"`
	HasMore    bool `json:"has_more"`
	NextCursor int  `json:"next_cursor"`
	Total      int  `json:"total"`
}

// send sends a message, with a key if it is not empty.
func (c client) send(chat, text, sender, key string) (status int, err error) {
	body, err := json.Marshal(map[string]string{"chat": chat, "text": text, "sender": sender})
	if err != nil {
		return 0, err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	status, _, err = c.do(ctx, http.MethodPost, "/api/send", header, body)
	return status, err
}

type query struct {
	chat                       string
	cursor, limit, total, wait int
	reverse                    bool
}

// pull pulls a page, which is there where the status is 200 and err is nil.
func (c client) pull(ctx context.Context, q query) (p page, status int, err error) {
	path := fmt.Sprintf("/api/pull?chat=%s&cursor=%d&limit=%d&reverse=%t&total=%d", url.QueryEscape(q.chat), q.cursor, q.limit, q.reverse, q.total)
	ctx, cancel := context.WithTimeout(ctx, timeout+time.Duration(q.wait)*time.Second)
	defer cancel()
	if q.wait > 0 {
		path += fmt.Sprintf("&wait=%d", q.wait)
	}
	status, body, err := c.do(ctx, http.MethodGet, path, http.Header{}, nil)
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal(body, &p)
	}
	return p, status, err
}

// list lists a member's chats, which are there where the status is 200 and err is nil.
func (c client) list(ctx context.Context, member string, cursor int) (l list, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, body, err := c.do(ctx, http.MethodGet, fmt.Sprintf("/api/chats?member=%s&cursor=%d&limit=100", url.QueryEscape(member), cursor), http.Header{}, nil)
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal(body, &l)
	}
	return l, status, err
}

// do makes a request of the current gateway or, where that accepts no connection,
// of the next, which is the current one from then on. It is too once an answer is
// said to be the last of its connection, as those of a stopping gateway are.
func (c client) do(ctx context.Context, method, path string, header http.Header, body []byte) (status int, answer []byte, err error) {
	for range c.dials {
		current := c.current.Load()
		var last bool
		status, answer, last, err = c.once(ctx, method, c.urls[current%uint64(len(c.urls))]+path, header, body)
		dialing := new(net.OpError)
		refused := errors.As(err, &dialing) && dialing.Op == "dial"
		if refused || last {
			c.current.CompareAndSwap(current, current+1)
		}
		if !refused {
			break
		}
	}
	return status, answer, err
}

func (c client) once(ctx context.Context, method, url string, header http.Header, body []byte) (status int, answer []byte, last bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, false, err
	}
	req.Header = header
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, false, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, false, err
	}
	return resp.StatusCode, answer, resp.Close, nil
}
