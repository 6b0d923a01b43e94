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
	tests := map[string]struct{ advertise, listening, etcd, want string }{
		"set":                          {"rpc.example:80", "127.0.0.1:4711", "etcd:2379", "rpc.example:80"},
		"set, IPv6":                    {"[2001:db8::1]:80", "[::]:4711", "etcd:2379", "[2001:db8::1]:80"},
		"set to another port":          {"192.0.2.3:80", "192.0.2.3:4711", "etcd:2379", "192.0.2.3:80"},
		"loopback":                     {"", "127.0.0.1:4711", "etcd:2379", "127.0.0.1:4711"},
		"IPv6 loopback":                {"", "[::1]:4711", "etcd:2379", "[::1]:4711"},
		"one address":                  {"", "192.0.2.3:4711", "etcd:2379", "192.0.2.3:4711"},
		"one IPv6 address":             {"", "[2001:db8::1]:4711", "etcd:2379", "[2001:db8::1]:4711"},
		"all":                          {"", "[::]:4711", "127.0.0.1:2379", "127.0.0.1:4711"},
		"all of IPv4":                  {"", "0.0.0.0:4711", "127.0.0.1:2379", "127.0.0.1:4711"},
		"all, where etcd has a scheme": {"", "[::]:4711", "http://127.0.0.1:2379", "127.0.0.1:4711"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listening, err := net.ResolveTCPAddr("tcp", test.listening)
			require.NoError(t, err)
			r := &Registration{advertise: test.advertise, listening: listening, config: clientv3.Config{Endpoints: []string{test.etcd}}}
			got, err := r.address()
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}

func TestAddress_IsAnErrorWhereNothingLeadsToEtcd(t *testing.T) {
	t.Parallel()
	r := &Registration{listening: &net.TCPAddr{IP: net.IPv6unspecified, Port: 4711}, config: clientv3.Config{Endpoints: []string{"127.0.0.1:no-port"}}}
	_, err := r.address()
	require.Error(t, err)
}
