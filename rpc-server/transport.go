package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"

	"github.com/cloudwego/gopkg/protocol/ttheader"
	"github.com/cloudwego/kitex/pkg/remote"
	"github.com/cloudwego/kitex/pkg/remote/codec"
	"github.com/cloudwego/kitex/pkg/remote/trans/detection"
	"github.com/cloudwego/kitex/pkg/remote/trans/netpoll"
	"github.com/cloudwego/kitex/pkg/remote/trans/netpollmux"
	"github.com/cloudwego/kitex/pkg/remote/transmeta"
	np "github.com/cloudwego/netpoll"
)

// transports serves, on one port, connections that many calls share, such as the
// gateways', and those of any other Thrift client, framed or not.
func transports() remote.ServerTransHandlerFactory {
	return detection.NewSvrTransHandlerFactory(netpoll.NewSvrTransHandlerFactory(), muxFactory{netpollmux.NewSvrTransHandlerFactory()})
}

// muxFactory makes Kitex's handler of shared connections one that can be detected.
type muxFactory struct {
	remote.ServerTransHandlerFactory
}

func (f muxFactory) NewTransHandler(o *remote.ServerOption) (remote.ServerTransHandler, error) {
	h, err := f.ServerTransHandlerFactory.NewTransHandler(o)
	if err != nil {
		return nil, err
	}
	return muxHandler{h.(muxServer)}, nil
}

// muxServer is what Kitex's handler of shared connections can do.
type muxServer interface {
	remote.ServerTransHandler
	remote.InvokeHandleFuncSetter
	remote.GracefulShutdown
}

type muxHandler struct{ muxServer }

var errNotShared = errors.New("not a connection that calls share")

// ProtocolMatch is nil where the first bytes are of a TTHeader that allows answers
// in any order.
func (h muxHandler) ProtocolMatch(_ context.Context, conn net.Conn) error {
	head, err := conn.(np.Connection).Reader().Peek(2 * codec.Size32)
	if err != nil {
		return err
	}
	if !codec.IsTTHeader(head) || binary.BigEndian.Uint16(head[6:])&uint16(ttheader.HeaderFlagSupportOutOfOrder) == 0 {
		return errNotShared
	}
	return nil
}

// OnActive keeps what detection has put into ctx; the handler begins with a context
// of its own.
func (h muxHandler) OnActive(ctx context.Context, conn net.Conn) (context.Context, error) {
	own, err := h.muxServer.OnActive(ctx, conn)
	return both{own, ctx}, err
}

// requestIDs takes the id of a call's request from TTHeader's field for it.
type requestIDs struct{}

func (requestIDs) ReadMeta(ctx context.Context, call remote.Message) (context.Context, error) {
	if id, ok := call.TransInfo().TransIntInfo()[transmeta.LogID]; ok {
		ctx = context.WithValue(ctx, requestIDKey{}, id)
	}
	return ctx, nil
}

func (requestIDs) WriteMeta(ctx context.Context, _ remote.Message) (context.Context, error) {
	return ctx, nil
}

// both is a context with the values of another one too.
type both struct {
	context.Context
	detection context.Context
}

func (b both) Value(key any) any {
	if v := b.Context.Value(key); v != nil {
		return v
	}
	return b.detection.Value(key)
}
