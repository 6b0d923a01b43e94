package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/kerrors"
	"github.com/cloudwego/kitex/pkg/remote"
	"github.com/cloudwego/kitex/pkg/remote/codec"
	"github.com/cloudwego/kitex/pkg/remote/trans/netpollmux"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/netpoll"
	"golang.org/x/sync/singleflight"
)

// pool has one connection to each rpc-server, which all calls of a client share. It
// closes one that may be dead, which the kernel may notice after minutes only: where
// patience attempts in a row got no answer, those that wait there end at once, and
// the next one dials.
//
// It stands in for Kitex's own netpollmux.MuxPool, where a call may read the place
// of a connection while another is put there.
type pool struct {
	attemptTimeout time.Duration
	peers          sync.Map // of address, *peer
	dialing        singleflight.Group
}

// peer is an rpc-server, as one client sees it.
type peer struct {
	conn     atomic.Pointer[sharedConn] // nil is none
	timeouts atomic.Int64               // in a row
	hangUps  atomic.Int64
}

// sharedConn is a connection as Kitex knows it, and what is below.
type sharedConn struct {
	net.Conn
	below  *rawConn
	dialed time.Time
}

func (p *pool) peer(address string) *peer {
	known, ok := p.peers.Load(address)
	if !ok {
		known, _ = p.peers.LoadOrStore(address, new(peer))
	}
	return known.(*peer)
}

func (p *pool) Get(ctx context.Context, network, address string, opt remote.ConnOption) (net.Conn, error) {
	to := p.peer(address)
	if c := to.conn.Load(); c != nil && c.below.IsActive() {
		return c.Conn, nil
	}
	conn, err, _ := p.dialing.Do(address, func() (any, error) {
		if c := to.conn.Load(); c != nil && c.below.IsActive() {
			return c.Conn, nil // dialed meanwhile
		}
		c := &sharedConn{dialed: time.Now()}
		dialer := dialerFunc(func(network, address string, timeout time.Duration) (net.Conn, error) {
			conn, err := opt.Dialer.DialTimeout(network, address, timeout)
			if err != nil {
				return nil, err
			}
			c.below = &rawConn{conn.(netpoll.Connection), func() { p.retire(to, c) }}
			return c.below, nil
		})
		// A MuxPool for each connection: no place in it is ever filled again.
		var err error
		c.Conn, err = netpollmux.NewMuxConnPool(1).Get(ctx, network, address, remote.ConnOption{Dialer: dialer, ConnectTimeout: opt.ConnectTimeout})
		if err != nil {
			return nil, err
		}
		to.conn.Store(c)
		return c.Conn, nil
	})
	if err != nil {
		return nil, err
	}
	return conn.(net.Conn), nil
}

// Put is for a call that ended; others go on with the connection.
func (p *pool) Put(net.Conn) error { return nil }

// Discard is for a call that failed, which says nothing of the others.
func (p *pool) Discard(net.Conn) error { return nil }

// Clean forgets an rpc-server that etcd no longer names.
func (p *pool) Clean(_, address string) {
	if gone, ok := p.peers.LoadAndDelete(address); ok {
		to := gone.(*peer)
		p.retire(to, to.conn.Load())
	}
}

// retire gives c, which may be nil, no more calls, and closes it when those on their
// way have ended.
func (p *pool) retire(to *peer, c *sharedConn) {
	if c != nil && to.conn.CompareAndSwap(c, nil) {
		time.AfterFunc(p.attemptTimeout, func() { c.below.Close() })
	}
}

// Close closes all connections.
func (p *pool) Close() error {
	for _, each := range p.peers.Range {
		each.(*peer).hangUp(0)
	}
	return nil
}

// observe is the middleware that sees which attempts get no answer: these end with
// kerrors.ErrRPCTimeout.
func (p *pool) observe(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, req, resp any) error {
		to := p.peer(rpcinfo.GetRPCInfo(ctx).To().Address().String())
		hangUps := to.hangUps.Load()
		err := next(ctx, req, resp)
		switch {
		case err == nil:
			if to.timeouts.Load() > 0 {
				to.timeouts.Store(0)
			}
		case errors.Is(err, kerrors.ErrGetConnection): // nothing was asked
		case ctx.Err() != nil:
			if to.timeouts.Add(1)%patience == 0 {
				to.hangUp(p.attemptTimeout)
			}
			err = kerrors.ErrRPCTimeout.WithCause(err)
		case to.hangUps.Load() != hangUps:
			err = kerrors.ErrRPCTimeout.WithCause(err)
		}
		return err
	}
}

// hangUp closes the connection if there is one of that age.
func (p *peer) hangUp(age time.Duration) {
	if c := p.conn.Load(); c != nil && time.Since(c.dialed) >= age && p.conn.CompareAndSwap(c, nil) {
		p.hangUps.Add(1)
		c.below.Close()
	}
}

type dialerFunc func(network, address string, timeout time.Duration) (net.Conn, error)

func (f dialerFunc) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	return f(network, address, timeout)
}

// rawConn is a netpoll connection, made fit for Kitex to share.
type rawConn struct {
	netpoll.Connection
	leave func() // the server is about to close it
}

// Close returns before the connection is closed. netpoll waits in it for the
// connection's writer, which closes it where it finds it broken.
func (c *rawConn) Close() error {
	go c.Connection.Close()
	return nil
}

// AddCloseCallback calls f also where the connection is closed already.
func (c *rawConn) AddCloseCallback(f netpoll.CloseCallback) error {
	err := c.Connection.AddCloseCallback(f)
	if !c.IsActive() {
		return f(c)
	}
	return err
}

// SetOnRequest keeps from f the control frame by which a Kitex server says that it
// stops, one of sequence number 0: Kitex's client would panic of it.
func (c *rawConn) SetOnRequest(f netpoll.OnRequest) error {
	return c.Connection.SetOnRequest(func(ctx context.Context, conn netpoll.Connection) error {
		head, err := conn.Reader().Peek(3 * codec.Size32) // length of the rest, magic and flags, sequence number
		if err != nil || binary.BigEndian.Uint32(head[2*codec.Size32:]) != 0 {
			return f(ctx, conn)
		}
		c.leave()
		return conn.Reader().Skip(codec.Size32 + int(binary.BigEndian.Uint32(head)))
	})
}

// sharedTransport makes Kitex's handler of shared connections, which insists on a
// MuxPool where it needs none.
type sharedTransport struct {
	remote.ClientTransHandlerFactory
}

func (f sharedTransport) NewTransHandler(opt *remote.ClientOption) (remote.ClientTransHandler, error) {
	with := *opt
	with.ConnPool = netpollmux.NewMuxConnPool(1)
	return f.ClientTransHandlerFactory.NewTransHandler(&with)
}
