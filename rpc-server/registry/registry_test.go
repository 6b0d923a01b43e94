package registry

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestAddress_IsWhatIsSetOrListenedOnOrWhereEtcdIsReachedFrom(t *testing.T) {
	t.Parallel()
	etcd, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer etcd.Close()
	reachable := etcd.Addr().String()
	tests := map[string]struct {
		advertise, listening string
		etcd                 []string
		want                 string
	}{
		"set":                 {"rpc.example:80", "127.0.0.1:4711", nil, "rpc.example:80"},
		"set, IPv6":           {"[2001:db8::1]:80", "[::]:4711", nil, "[2001:db8::1]:80"},
		"set to another port": {"192.0.2.3:80", "192.0.2.3:4711", nil, "192.0.2.3:80"},
		"loopback":            {"", "127.0.0.1:4711", nil, "127.0.0.1:4711"},
		"IPv6 loopback":       {"", "[::1]:4711", nil, "[::1]:4711"},
		"one address":         {"", "192.0.2.3:4711", nil, "192.0.2.3:4711"},
		"one IPv6 address":    {"", "[2001:db8::1]:4711", nil, "[2001:db8::1]:4711"},
		"all":                 {"", "[::]:4711", []string{reachable}, "127.0.0.1:4711"},
		"all of IPv4":         {"", "0.0.0.0:4711", []string{reachable}, "127.0.0.1:4711"},
		"all, where the first member of etcd is gone": {"", "[::]:4711", []string{"gone.invalid:2379", "127.0.0.1:1", reachable}, "127.0.0.1:4711"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			listening, err := net.ResolveTCPAddr("tcp", test.listening)
			require.NoError(t, err)
			r := &Registration{stopping: t.Context(), advertise: test.advertise, listening: listening, config: clientv3.Config{Endpoints: test.etcd}}
			got, err := r.address()
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}

func TestAddress_IsAnErrorWhereNothingLeadsToEtcd(t *testing.T) {
	t.Parallel()
	r := &Registration{stopping: t.Context(), listening: &net.TCPAddr{IP: net.IPv6unspecified, Port: 4711}, config: clientv3.Config{Endpoints: []string{"gone.invalid:2379", "127.0.0.1:1"}}}
	_, err := r.address()
	require.Error(t, err)
}
