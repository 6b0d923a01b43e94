package main

import (
	"context"
	"errors"
	"testing"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/rpcinfo/remoteinfo"
	"github.com/stretchr/testify/assert"
)

func instance(address string) discovery.Instance {
	return discovery.NewInstance("tcp", address, 10, nil)
}

// newCall is the context of a call whose attempt before went to tried; "" is none.
func newCall(tried string) context.Context {
	to := remoteinfo.NewRemoteInfo(&rpcinfo.EndpointBasicInfo{ServiceName: service}, "Send")
	if tried != "" {
		to.SetTag(rpcinfo.RetryPrevInstTag, tried)
	}
	return rpcinfo.NewCtxWithRPCInfo(context.Background(), rpcinfo.NewRPCInfo(nil, to.ImmutableView(), nil, nil, nil))
}

func TestBalancer_ChoosesTheInstancesInTurnButThoseTriedOrSetAside(t *testing.T) {
	const a, b, c = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
	for _, test := range []struct {
		name     string
		known    []string
		tried    string
		setAside []string
		want     []string // all that get calls
	}{
		{"none is known", nil, "", nil, nil},
		{"all in turn", []string{a, b, c}, "", nil, []string{a, b, c}},
		{"not the one just tried", []string{a, b, c}, b, nil, []string{a, c}},
		{"the one just tried, if it is the only one", []string{a}, a, nil, []string{a}},
		{"not the one set aside", []string{a, b, c}, "", []string{b}, []string{a, c}},
		{"one set aside rather than the one just tried", []string{a, b}, a, []string{b}, []string{b}},
		{"neither tried nor set aside", []string{a, b, c}, a, []string{b}, []string{c}},
		{"all in turn where all are set aside", []string{a, b}, "", []string{a, b}, []string{a, b}},
		{"not the one just tried where all are set aside", []string{a, b, c}, b, []string{a, b, c}, []string{a, c}},
	} {
		t.Run(test.name, func(t *testing.T) {
			balancer := newBalancer()
			for _, address := range test.setAside {
				for range patience {
					balancer.record(address).add(address, errors.New("timeout"))
				}
			}
			var known []discovery.Instance
			for _, address := range test.known {
				known = append(known, instance(address))
			}
			var got []string
			for range 6 * turn {
				if i := balancer.GetPicker(discovery.Result{Instances: known}).Next(newCall(test.tried), nil); i != nil {
					got = append(got, i.Address().String())
				}
			}
			assert.Subset(t, test.want, got)
			assert.Subset(t, got, test.want)
		})
	}
}

func TestBalancer_GivesEachInstanceSomeCallsInARowAndAllTheSameNumber(t *testing.T) {
	picker := newBalancer().GetPicker(discovery.Result{Instances: []discovery.Instance{instance("127.0.0.1:1"), instance("127.0.0.1:2"), instance("127.0.0.1:3")}})
	calls, changes, last := map[string]int{}, 0, ""
	for range 30 * turn {
		address := picker.Next(newCall(""), nil).Address().String()
		calls[address]++
		if address != last {
			changes++
		}
		last = address
	}
	assert.InDelta(t, 30, changes, 1)
	for address, n := range calls {
		assert.InDelta(t, 10*turn, n, 1, address)
	}
}

func TestBalancer_TriesTheOneSetAsideByASingleCall(t *testing.T) {
	r := new(record)
	for range patience {
		assert.True(t, r.open())
		r.add("a", errors.New("timeout"))
	}
	assert.False(t, r.open(), "it is set aside")

	r.closed.Store(0) // its time is over
	assert.True(t, r.open(), "one may try")
	assert.False(t, r.open(), "the next may not")
	r.add("a", errors.New("timeout"))
	assert.False(t, r.open(), "it is set aside again")

	r.closed.Store(0)
	assert.True(t, r.open())
	r.add("a", nil)
	assert.True(t, r.open(), "it is back")
	assert.True(t, r.open())
}

func TestBalancer_ForgetsWhoIsGone(t *testing.T) {
	b := newBalancer()
	b.record("127.0.0.1:1")
	b.record("127.0.0.1:2")
	b.Rebalance(discovery.Change{Removed: []discovery.Instance{instance("127.0.0.1:1")}})
	var left []any
	b.records.Range(func(address, _ any) bool { left = append(left, address); return true })
	assert.Equal(t, []any{"127.0.0.1:2"}, left)
}
