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
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"im/internal/etcd"
	"im/internal/gen/rpc"
)

const (
	// leaseTTL is how many seconds etcd keeps a server that died silently.
	leaseTTL = 10
	// verifyInterval is the pause between two questions to etcd whether it has the entry, and
	// verifyTimeout bounds each.
	verifyInterval = 500 * time.Millisecond
	verifyTimeout  = time.Second
	// etcdTimeout bounds each other request to etcd.
	etcdTimeout = 3 * time.Second
	// etcdRetry is the pause between attempts to register.
	etcdRetry = time.Second
)

// Registration keeps this server's address in etcd until Deregister is called, under the key and
// in the form that the resolver of kitex-contrib/registry-etcd reads. It puts the entry back
// whatever took it away: a lost lease, an etcd that lost its data, or somebody who deleted it.
//
// Of several servers with one address, that which started last has the entry. The others
// are not registered. One of them puts its own once it is gone.
type Registration struct {
	config    clientv3.Config
	client    *clientv3.Client // nil until it is connected to
	advertise string           // host:port, empty to find it out
	listening *net.TCPAddr     // what is listened on
	// leases are all that this server was granted. An entry under one of them is its own.
	leases map[clientv3.LeaseID]bool

	entry    atomic.Pointer[entry] // nil while not registered
	failure  atomic.Pointer[error] // of the last request to etcd; nil is none
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

var (
	errNotRegistered = errors.New("not registered in etcd")
	errNotAsked      = errors.New("etcd was not asked yet")
	errTaken         = errors.New("another server has registered the same address")
)

// Register begins to keep this server's address in etcd and returns at once. The address is
// advertise, a host:port; where that is empty, it is listening or, if that is all of the
// machine's addresses, the one from which etcd is reached.
func Register(config clientv3.Config, advertise string, listening *net.TCPAddr) *Registration {
	r := &Registration{config: config, advertise: advertise, listening: listening, leases: map[clientv3.LeaseID]bool{}, done: make(chan struct{})}
	r.failure.Store(&errNotAsked)
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
		r.failure.Store(&err)
		slog.Warn("not registered in etcd", "err", err)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			continue
		}
		select {
		case <-r.stopping.Done():
		case <-time.After(etcdRetry):
		}
	}
}

// session registers, and returns once the lease is lost or Deregister is called, which ends
// the lease and so takes the entry out of etcd. The first session replaces an entry that is
// there: a server that was killed leaves one until its lease ends.
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
		"tags": map[string]string{rpc.TAG_BATCHES: "true", rpc.TAG_HINTS: "true", rpc.TAG_CHATS: "true"},
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
	defer r.entry.Store(nil)
	put := clientv3.OpPut(key, string(value), clientv3.WithLease(lease.ID))
	if len(r.leases) == 0 {
		if _, err := r.client.Do(ctx, put); err != nil {
			return err
		}
	}
	r.leases[lease.ID] = true
	alive, err := r.client.KeepAlive(r.stopping, lease.ID)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(verifyInterval)
	defer ticker.Stop()
	for {
		err := r.verify(&entry{key, fmt.Sprintf("%016x", int64(lease.ID)), leaseTTL}, lease.ID, put)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		r.failure.Store(&err)
		select {
		case _, ok := <-alive:
			if !ok {
				return rpctypes.ErrLeaseNotFound
			}
		case <-ticker.C:
		}
	}
}

// verify asks etcd for the entry, and puts it there if it is missing, or is still that of an
// earlier session. The error is errTaken where another server has put its own. Where etcd
// does not answer, the entry is taken to be as it was: its lease may live.
func (r *Registration) verify(own *entry, lease clientv3.LeaseID, put clientv3.Op) error {
	ctx, cancel := context.WithTimeout(r.stopping, verifyTimeout)
	defer cancel()
	found, err := r.client.Get(ctx, own.Key)
	if err != nil {
		return err
	}
	var holder clientv3.LeaseID
	var revision int64 // of the entry; 0 where there is none
	if found.Count > 0 {
		holder, revision = clientv3.LeaseID(found.Kvs[0].Lease), found.Kvs[0].ModRevision
	}
	if holder != lease {
		r.entry.Store(nil)
		if revision > 0 && !r.leases[holder] {
			return errTaken
		}
		replaced, err := r.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(own.Key), "=", revision)).Then(put).Commit()
		if err != nil {
			return err
		}
		if !replaced.Succeeded {
			return errTaken
		}
	}
	if r.entry.Swap(own) == nil {
		slog.Info("registered in etcd", "key", own.Key)
	}
	return nil
}

// revoke ends the lease of key, and with it the entry, unless that is another server's. Where
// etcd does not answer, the lease ends by itself after leaseTTL.
func (r *Registration) revoke(lease clientv3.LeaseID, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := r.client.Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
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

// Check returns nil while etcd has this server's entry.
func (r *Registration) Check(context.Context) error {
	if r.entry.Load() != nil {
		return nil
	}
	if err := *r.failure.Load(); err != nil {
		return fmt.Errorf("%w: %w", errNotRegistered, err)
	}
	return errNotRegistered
}

// CheckEtcd returns nil if etcd answered the last time that it was asked.
func (r *Registration) CheckEtcd(context.Context) error {
	err := *r.failure.Load()
	if errors.Is(err, errTaken) || errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
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
	var errs []error
	dialer := net.Dialer{Timeout: verifyTimeout}
	for _, endpoint := range r.config.Endpoints {
		conn, err := dialer.DialContext(r.stopping, "tcp", endpoint)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		conn.Close()
		return net.JoinHostPort(conn.LocalAddr().(*net.TCPAddr).IP.String(), strconv.Itoa(r.listening.Port)), nil
	}
	return "", errors.Join(errs...)
}
