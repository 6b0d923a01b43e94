package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// message is what HTTP clients see.
type message struct {
	Chat     string `json:"chat"`
	Text     string `json:"text"`
	Sender   string `json:"sender"`
	SendTime int64  `json:"send_time"`
}

type page struct {
	Messages   []message `json:"messages"`
	HasMore    bool      `json:"has_more"`
	NextCursor int64     `json:"next_cursor"`
	Total      int64     `json:"total"`
}

type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

// post sends a message and gives the status; an error is a broken connection.
func post(base, chat, text, sender string, headers ...string) (int, error) {
	body, err := json.Marshal(map[string]string{"chat": chat, "text": text, "sender": sender})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(http.MethodPost, base+"/api/send", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// send sends a message that must be stored.
func send(t *testing.T, base, chat, text, sender string, headers ...string) {
	t.Helper()
	status, err := post(base, chat, text, sender, headers...)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
}

// get pulls by query.
func get(base, query string) (status int, body []byte, err error) {
	resp, err := client.Get(base + "/api/pull?" + query)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// pull pulls a page that must be served. Query is what follows the chat, as in
// "&limit=20".
func pull(t *testing.T, base, chat, query string) page {
	t.Helper()
	status, body, err := get(base, "chat="+url.QueryEscape(chat)+query)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, "%s", body)
	var p page
	require.NoError(t, json.Unmarshal(body, &p))
	return p
}

// pullAll pulls forward until there is no more.
func pullAll(t *testing.T, base, chat string) []message {
	t.Helper()
	var all []message
	for cursor := int64(0); ; {
		p := pull(t, base, chat, fmt.Sprintf("&limit=1000&cursor=%d", cursor))
		all = append(all, p.Messages...)
		require.Equal(t, int64(len(all)), p.NextCursor)
		if !p.HasMore {
			require.Equal(t, p.Total, p.NextCursor)
			return all
		}
		cursor = p.NextCursor
	}
}

// newChat is a chat that no other test uses, between "a…" and "b…".
func newChat(t *testing.T) (chat, a, b string) {
	name := strings.NewReplacer("/", "-", ":", "-").Replace(t.Name())
	if len(name) > 90 {
		name = name[:90]
	}
	name += fmt.Sprint("-", time.Now().UnixNano())
	return "a-" + name + ":b-" + name, "a-" + name, "b-" + name
}
