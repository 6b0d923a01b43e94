package gateway

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/backend/backendtest"
	"im/http-server/edge"
	"im/internal/gen/rpc"
)

func TestBuffers_WhatFindsNoRoomIsRefusedAtOnceAndNothingElse(t *testing.T) {
	b := backendtest.New()
	b.Hold = make(chan struct{})
	b.Page = &rpc.PullResponse{HasMore: new(bool), NextCursor: new(int64), Total: new(int64)}
	for range 50 {
		b.Page.Messages = append(b.Page.Messages, &rpc.Message{Chat: "a:b", Sender: "a", Text: strings.Repeat("x", 1000)})
	}
	bound := wide()
	bound.buffers = edge.NewBuffers(100_000)
	base := serveBounded(t, dialStub(t, b), bound)
	large := strings.Replace(sendBody, "hello", strings.Repeat("x", 60_000), 1)

	sent := make(chan int)
	go func() {
		resp, err := http.Post(base+"/api/send", "", strings.NewReader(large))
		if err != nil {
			sent <- 0
			return
		}
		resp.Body.Close()
		sent <- resp.StatusCode
	}()
	<-b.Sends // its body is held
	resp, body := call(t, "POST", base+"/api/send", large)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Equal(t, "1", resp.Header.Get("Retry-After"))
	problemIn(t, resp, body)
	go call(t, "POST", base+"/api/send", sendBody)
	assert.Equal(t, "hello", (<-b.Sends).Message.Text, "what is small needs no room")
	resp, body = call(t, "GET", base+"/api/pull?chat=a:b", "")
	assert.Equal(t, 503, resp.StatusCode)
	problemIn(t, resp, body)

	close(b.Hold)
	assert.Equal(t, 200, <-sent)
	backendtest.Eventually(t, func() bool { // once the send is answered
		resp, _ := call(t, "GET", base+"/api/pull?chat=a:b", "")
		return resp.StatusCode == 200
	})
	resp, _ = call(t, "POST", base+"/api/send", large)
	assert.Equal(t, 200, resp.StatusCode)
}

func TestBuffers_WhoIsSlowMakesRoomForTheNext(t *testing.T) {
	b := backendtest.New()
	b.Page = &rpc.PullResponse{HasMore: new(bool), NextCursor: new(int64), Total: new(int64)}
	for range 16 {
		b.Page.Messages = append(b.Page.Messages, &rpc.Message{Chat: "a:b", Sender: "a", Text: strings.Repeat("x", 1<<20)})
	}
	bound := wide()
	bound.buffers = edge.NewBuffers(40 << 20) // two pages
	base := serveBounded(t, dialStub(t, b), bound)
	for range 2 { // who never read
		deaf, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		require.NoError(t, err)
		defer deaf.Close()
		require.NoError(t, deaf.(*net.TCPConn).SetReadBuffer(4096)) // else the kernel takes it all
		_, err = io.WriteString(deaf, "GET /api/pull?chat=a:b HTTP/1.1\r\nHost: im\r\n\r\n")
		require.NoError(t, err)
	}
	backendtest.Eventually(t, func() bool { return bound.buffers.Reserved() > 32<<20 }) // both hold a page
	served := func() bool {
		resp, err := http.Get(base + "/api/pull?chat=a:b")
		require.NoError(t, err)
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp.StatusCode == 200 && n > 16<<20
	}
	backendtest.Eventually(t, served)
	for range 3 {
		assert.True(t, served())
	}
}
