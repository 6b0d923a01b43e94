package backend

import (
	"errors"
	"testing"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/http-server/backend/backendtest"
)

// newBalancerOf knows rpc-servers by their addresses, whose probes fail.
func newBalancerOf(addresses ...string) *balancer {
	b := newBalancer(func(*instance) error { return errors.New("no sign of life") })
	b.update(backendtest.Instances(addresses...))
	return b
}

// of is the instance at address.
func (b *balancer) of(address string) *instance {
	for _, i := range b.known {
		if i.Address().String() == address {
			return i
		}
	}
	return nil
}

func (b *balancer) eject(address string) {
	for range consecutiveFailures {
		b.observe(b.of(address), errors.New("timeout"))
	}
}

func TestBalancer_ChoosesTheInstancesInTurnButThoseTriedOrEjected(t *testing.T) {
	t.Parallel()
	const a, b, c = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
	for _, test := range []struct {
		name    string
		known   []string
		tried   string
		ejected []string
		want    []string // all that get batches, in turn
	}{
		{"none is known", nil, "", nil, nil},
		{"all in turn", []string{a, b, c}, "", nil, []string{a, b, c}},
		{"not the one just tried", []string{a, b, c}, b, nil, []string{a, c}},
		{"the one just tried, if it is the only one", []string{a}, a, nil, []string{a}},
		{"not the one ejected", []string{a, b, c}, "", []string{b}, []string{a, c}},
		{"one ejected rather than the one just tried", []string{a, b}, a, []string{b}, []string{b}},
		{"neither tried nor ejected", []string{a, b, c}, a, []string{b}, []string{c}},
		{"all in turn where all are ejected", []string{a, b}, "", []string{a, b}, []string{a, b}},
		{"not the one just tried where all are ejected", []string{a, b, c}, b, []string{a, b, c}, []string{a, c}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			balancer := newBalancerOf(test.known...)
			for _, address := range test.ejected {
				balancer.eject(address)
			}
			var got []string
			for range 2 * len(test.want) {
				tried := []*instance{balancer.of(test.tried)}
				i := balancer.reserve(methodSend, tried)
				got = append(got, i.Address().String())
				balancer.release(methodSend, tried, i)
			}
			assert.Equal(t, append(test.want, test.want...), got)
			if test.want == nil {
				assert.Nil(t, balancer.reserve(methodSend, nil))
			}
		})
	}
}

func TestBalancer_ABatchWaitsForRoomAndFindsItAtAnyInstance(t *testing.T) {
	t.Parallel()
	b := newBalancerOf("127.0.0.1:1", "127.0.0.1:2")
	var busy []*instance
	for range 2 * maxBatches {
		busy = append(busy, b.reserve(methodSend, nil))
	}
	assert.NotNil(t, b.reserve(methodPull, nil), "sends and pulls have room of their own")
	assert.NotNil(t, b.reserve(methodSend, busy[:1]), "what is tried again has room of its own")
	got := make(chan *instance)
	go func() { got <- b.reserve(methodSend, nil) }()
	select {
	case <-got:
		t.Fatal("there is no room")
	case <-time.After(50 * time.Millisecond):
	}
	b.release(methodSend, nil, busy[1])
	assert.Equal(t, busy[1], <-got)
	assert.NotNil(t, b.next(methodSend, nil), "a call alone needs no room")
}

func TestBalancer_AnEjectedInstanceIsBackOnceAProbeSucceeds(t *testing.T) {
	t.Parallel()
	b := newBalancerOf("127.0.0.1:1", "127.0.0.1:2")
	answers := make(chan error)
	b.probe = func(*instance) error { return <-answers }
	b.eject("127.0.0.1:1")
	answers <- errors.New("timeout")
	assert.True(t, b.instances()[0].Ejected)
	answers <- nil
	backendtest.Eventually(t, func() bool { return !b.instances()[0].Ejected })
}

func TestBalancer_EjectsWhoRefusesForAWhileWhatOthersServe(t *testing.T) {
	t.Parallel()
	b := newBalancerOf("127.0.0.1:1", "127.0.0.1:2")
	refusing := b.of("127.0.0.1:1")
	getsNone := func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return refusing.refusing
	}
	refuse := func(n int) bool {
		for range n {
			b.refusedBy(refusing, methodSend)
		}
		return getsNone()
	}
	assert.False(t, refuse(10), "others may have noticed sooner that a master is back")
	time.Sleep(ejectionTime)
	b.servedBy(refusing, methodPull)
	assert.True(t, refuse(1), "pulls say nothing of sends")
	assert.Equal(t, b.of("127.0.0.1:2"), b.next(methodSend, nil))
	assert.Equal(t, b.of("127.0.0.1:2"), b.next(methodSend, nil))
	backendtest.Eventually(t, func() bool { return !getsNone() })
	assert.True(t, b.instances()[0].Ejected, "nothing has shown that it serves again")
	assert.NotNil(t, b.instances()[0].Failure)
	assert.True(t, refuse(1), "one more batch shows that nothing has changed")
	backendtest.Eventually(t, func() bool { return !getsNone() })
	b.servedBy(refusing, methodSend)
	assert.False(t, b.instances()[0].Ejected)
	assert.False(t, refuse(10), "it serves")
}

func TestBalancer_KeepsWhatItKnowsOfWhoStaysAndForgetsWhoIsGone(t *testing.T) {
	t.Parallel()
	b := newBalancerOf("127.0.0.1:1", "127.0.0.1:2")
	b.eject("127.0.0.1:1")
	b.update([]discovery.Instance{backendtest.Instance("127.0.0.1:1")})
	require.Len(t, b.instances(), 1)
	assert.True(t, b.instances()[0].Ejected)
	b.update(nil)
	b.update([]discovery.Instance{backendtest.Instance("127.0.0.1:1")})
	assert.False(t, b.instances()[0].Ejected)
	assert.True(t, b.of("127.0.0.1:1").batches)
	b.update([]discovery.Instance{discovery.NewInstance("tcp", "127.0.0.1:1", 10, nil)})
	assert.False(t, b.of("127.0.0.1:1").batches, "another version took its place")
}
