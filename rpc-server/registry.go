package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"im/rpc-server/kitex_gen/rpc"
)

const (
	// leaseTTL is how many seconds etcd keeps a server that died silently.
	leaseTTL = 10
	// etcdTimeout bounds each request to etcd.
	etcdTimeout = 3 * time.Second
	// etcdRetry is the pause between attempts to register.
	etcdRetry = time.Second
)

// registration keeps this server's address in etcd, under the key and in the
// form that the resolver of kitex-contrib/registry-etcd reads, for as long as
// it is not left: whenever the lease is lost, or etcd was away or lost its
// data, it registers anew.
type registration struct {
	config    clientv3.Config
	etcd      *clientv3.Client // nil until it is connected to
	advertise string           // host:port, empty to find it out
	listening *net.TCPAddr     // what is listened on

	held    atomic.Pointer[held] // nil while not registered
	leaving context.Context
	cancel  context.CancelFunc
	done    chan struct{}
}

// held is what etcd has of this server.
type held struct {
	Key   string `json:"key"`
	Lease string `json:"lease"` // in hexadecimal, as etcdctl writes it
	TTL   int    `json:"ttl_seconds"`
}

var errNotRegistered = errors.New("not registered in etcd")

// register begins to keep this server's address in etcd and returns at once.
func register(etcd clientv3.Config, advertise string, listening *net.TCPAddr) *registration {
	r := &registration{config: etcd, advertise: advertise, listening: listening, done: make(chan struct{})}
	r.leaving, r.cancel = context.WithCancel(context.Background())
	r.config.Context = r.leaving
	go r.keep()
	return r
}

// keep registers again and again until leave.
func (r *registration) keep() {
	defer close(r.done)
	for {
		err := r.hold()
		if r.leaving.Err() != nil {
			return
		}
		slog.Warn("not registered in etcd", "err", err)
		select {
		case <-r.leaving.Done():
		case <-time.After(etcdRetry):
		}
	}
}

// hold registers and stays until leave, when it takes the address out of etcd,
// or until the lease is lost.
func (r *registration) hold() error {
	address, err := r.address()
	if err != nil {
		return err
	}
	if r.etcd == nil {
		if r.etcd, err = clientv3.New(r.config); err != nil {
			return err
		}
	}
	key := "kitex/registry-etcd/" + service + "/" + address
	value, err := json.Marshal(map[string]any{
		"network": "tcp", "address": address, "weight": 10,
		"tags": map[string]string{rpc.TAG_BATCHES: "true"},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.leaving, etcdTimeout)
	defer cancel()
	lease, err := r.etcd.Grant(ctx, leaseTTL)
	if err != nil {
		return err
	}
	defer r.revoke(lease.ID, key)
	if _, err := r.etcd.Put(ctx, key, string(value), clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	alive, err := r.etcd.KeepAlive(r.leaving, lease.ID)
	if err != nil {
		return err
	}
	slog.Info("registered in etcd", "key", key)
	r.held.Store(&held{key, fmt.Sprintf("%016x", int64(lease.ID)), leaseTTL})
	defer r.held.Store(nil)
	for range alive {
	}
	return errors.New("the lease is lost")
}

// revoke ends the lease of key, and with it the key. Where etcd does not answer, the lease
// ends by itself after leaseTTL.
func (r *registration) revoke(lease clientv3.LeaseID, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := r.etcd.Revoke(ctx, lease); err != nil {
		slog.Warn("the lease is left to end", "err", err)
		return
	}
	slog.Info("left etcd", "key", key)
}

// leave takes the address out of etcd and, if it was there, returns after wait,
// when every gateway has noticed. It closes the connection to etcd.
func (r *registration) leave(wait time.Duration) {
	wasRegistered := r.held.Load() != nil
	r.cancel()
	<-r.done
	if r.etcd != nil {
		r.etcd.Close()
	}
	if wasRegistered {
		time.Sleep(wait)
	}
}

// check is nil while the address is in etcd.
func (r *registration) check(context.Context) error {
	if r.held.Load() == nil {
		return errNotRegistered
	}
	return nil
}

// look asks etcd whether it has this server.
func (r *registration) look(ctx context.Context) error {
	held := r.held.Load()
	if held == nil {
		return errNotRegistered
	}
	found, err := r.etcd.Get(ctx, held.Key, clientv3.WithCountOnly())
	if err == nil && found.Count == 0 {
		err = errNotRegistered
	}
	return err
}

// address is what gateways are told: the address that is set or, with none, the
// one listened on. A server that listens on all of the machine's addresses tells
// the one from which it reaches etcd.
func (r *registration) address() (string, error) {
	if r.advertise != "" || !r.listening.IP.IsUnspecified() {
		return cmp.Or(r.advertise, r.listening.String()), nil
	}
	route, err := net.Dial("udp", r.config.Endpoints[0][strings.LastIndex(r.config.Endpoints[0], "/")+1:]) // sends nothing
	if err != nil {
		return "", err
	}
	defer route.Close()
	host, _, err := net.SplitHostPort(route.LocalAddr().String())
	return net.JoinHostPort(host, strconv.Itoa(r.listening.Port)), err
}
