// Package registry keeps the address of an rpc-server in etcd, where the gateways look for
// it.
package registry

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

	"im/internal/etcd"
	"im/internal/gen/rpc"
)

const (
	// leaseTTL is how many seconds etcd keeps a server that died silently.
	leaseTTL = 10
	// etcdTimeout bounds each request to etcd.
	etcdTimeout = 3 * time.Second
	// etcdRetry is the pause between attempts to register.
	etcdRetry = time.Second
)

// Registration keeps this server's address in etcd until Deregister is called, under the key and
// in the form that the resolver of kitex-contrib/registry-etcd reads. Whenever the lease is
// lost, or etcd was away or lost its data, it registers anew.
type Registration struct {
	config    clientv3.Config
	client    *clientv3.Client // nil until it is connected to
	advertise string           // host:port, empty to find it out
	listening *net.TCPAddr     // what is listened on

	entry    atomic.Pointer[entry] // nil while not registered
	stopping context.Context
	cancel   context.CancelFunc
	done     chan struct{}
}

// entry is what etcd has of this server.
type entry struct {
	Key   string `json:"key"`
	Lease string `json:"lease"` // in hexadecimal, as etcdctl writes it
	TTL   int    `json:"ttl_seconds"`
}

var errNotRegistered = errors.New("not registered in etcd")

// Register begins to keep this server's address in etcd and returns at once. The address is
// advertise, a host:port; where that is empty, it is listening or, if that is all of the
// machine's addresses, the one from which etcd is reached.
func Register(config clientv3.Config, advertise string, listening *net.TCPAddr) *Registration {
	r := &Registration{config: config, advertise: advertise, listening: listening, done: make(chan struct{})}
	r.stopping, r.cancel = context.WithCancel(context.Background())
	r.config.Context = r.stopping
	go r.register()
	return r
}

// register registers again and again until Deregister.
func (r *Registration) register() {
	defer close(r.done)
	for {
		err := r.session()
		if r.stopping.Err() != nil {
			return
		}
		slog.Warn("not registered in etcd", "err", err)
		select {
		case <-r.stopping.Done():
		case <-time.After(etcdRetry):
		}
	}
}

// session registers, and returns once the lease is lost or Deregister is called, which takes the
// address out of etcd.
func (r *Registration) session() error {
	address, err := r.address()
	if err != nil {
		return err
	}
	if r.client == nil {
		if r.client, err = clientv3.New(r.config); err != nil {
			return err
		}
	}
	key := "kitex/registry-etcd/" + etcd.Service + "/" + address
	value, err := json.Marshal(map[string]any{
		"network": "tcp", "address": address, "weight": 10,
		"tags": map[string]string{rpc.TAG_BATCHES: "true"},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.stopping, etcdTimeout)
	defer cancel()
	lease, err := r.client.Grant(ctx, leaseTTL)
	if err != nil {
		return err
	}
	defer r.revoke(lease.ID, key)
	if _, err := r.client.Put(ctx, key, string(value), clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	alive, err := r.client.KeepAlive(r.stopping, lease.ID)
	if err != nil {
		return err
	}
	slog.Info("registered in etcd", "key", key)
	r.entry.Store(&entry{key, fmt.Sprintf("%016x", int64(lease.ID)), leaseTTL})
	defer r.entry.Store(nil)
	for range alive {
	}
	return errors.New("the lease is lost")
}

// revoke ends the lease of key, and with it the key. Where etcd does not answer, the lease
// ends by itself after leaseTTL.
func (r *Registration) revoke(lease clientv3.LeaseID, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := r.client.Revoke(ctx, lease); err != nil {
		slog.Warn("the lease is left to end", "err", err)
		return
	}
	slog.Info("left etcd", "key", key)
}

// Deregister takes the address out of etcd and, if it was there, returns after wait, when every
// gateway has noticed. It closes the connection to etcd.
func (r *Registration) Deregister(wait time.Duration) {
	wasRegistered := r.entry.Load() != nil
	r.cancel()
	<-r.done
	if r.client != nil {
		r.client.Close()
	}
	if wasRegistered {
		time.Sleep(wait)
	}
}

// About returns what etcd has of this server, to be shown as JSON; null while it is not
// registered.
func (r *Registration) About() any { return r.entry.Load() }

// Check returns nil while the lease of the address lives.
func (r *Registration) Check(context.Context) error {
	if r.entry.Load() == nil {
		return errNotRegistered
	}
	return nil
}

// Ask asks etcd whether it has the address.
func (r *Registration) Ask(ctx context.Context) error {
	entry := r.entry.Load()
	if entry == nil {
		return errNotRegistered
	}
	found, err := r.client.Get(ctx, entry.Key, clientv3.WithCountOnly())
	if err == nil && found.Count == 0 {
		err = errNotRegistered
	}
	return err
}

// address is what gateways are told: the address that is set or, with none, the
// one listened on. A server that listens on all of the machine's addresses tells
// the one from which it reaches etcd.
func (r *Registration) address() (string, error) {
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
