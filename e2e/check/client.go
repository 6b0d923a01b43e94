package check

import (
	"bytes"
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

// client speaks to the gateways in turn.
type client struct {
	urls []string
	turn *atomic.Uint64
	http *http.Client
}

func newClient(urls []string) client {
	return client{urls, new(atomic.Uint64), &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 1000},
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
	status, _, err = c.do(http.MethodPost, "/api/send", header, body)
	return status, err
}

type query struct {
	chat                 string
	cursor, limit, total int
	reverse              bool
}

// pull pulls a page, which is there where the status is 200 and err is nil.
func (c client) pull(q query) (p page, status int, err error) {
	path := fmt.Sprintf("/api/pull?chat=%s&cursor=%d&limit=%d&reverse=%t&total=%d", url.QueryEscape(q.chat), q.cursor, q.limit, q.reverse, q.total)
	status, body, err := c.do(http.MethodGet, path, nil, nil)
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal(body, &p)
	}
	return p, status, err
}

// do makes a request of the next gateway, or of the one after it that accepts the
// connection.
func (c client) do(method, path string, header http.Header, body []byte) (status int, answer []byte, err error) {
	turn := c.turn.Add(1)
	for i := range uint64(len(c.urls)) {
		status, answer, err = c.once(method, c.urls[(turn+i)%uint64(len(c.urls))]+path, header, body)
		if dialing := new(net.OpError); !errors.As(err, &dialing) || dialing.Op != "dial" {
			break
		}
	}
	return status, answer, err
}

func (c client) once(method, url string, header http.Header, body []byte) (int, []byte, error) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = header
	if header == nil {
		req.Header = http.Header{}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, answer, nil
}
