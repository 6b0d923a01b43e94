package etcd

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestConfig_TakesEachFormOfAnEndpoint(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tls       bool
		endpoints []string
		want      []string
		overTLS   bool
	}{
		"host:port":           {false, []string{"etcd:2379", "[2001:db8::1]:2379"}, []string{"etcd:2379", "[2001:db8::1]:2379"}, false},
		"a URL":               {false, []string{"http://etcd:2379"}, []string{"etcd:2379"}, false},
		"a URL with a slash":  {false, []string{"http://etcd:2379/", "http://[::1]:2379/"}, []string{"etcd:2379", "[::1]:2379"}, false},
		"a URL for TLS":       {false, []string{"https://etcd:2379"}, []string{"etcd:2379"}, true},
		"TLS for all of them": {false, []string{"a:1", "https://b:2"}, []string{"a:1", "b:2"}, true},
		"by the setting":      {true, []string{"https://a:1", "b:2"}, []string{"a:1", "b:2"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := Settings{Endpoints: test.endpoints, TLS: test.tls}.Config()
			require.NoError(t, err)
			assert.Equal(t, test.want, config.Endpoints)
			assert.Equal(t, test.overTLS, config.TLS != nil)
		})
	}
}

// TestConfig_TakesNoProxy has a proxy in the environment, as Docker hands it to containers.
func TestConfig_TakesNoProxy(t *testing.T) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer proxy.Close()
	for _, variable := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(variable, "http://"+proxy.Addr().String())
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	asked := make(chan struct{})
	go func() {
		if conn, err := proxy.Accept(); err == nil {
			conn.Close()
			close(asked)
		}
	}()
	config, err := Settings{Endpoints: []string{"etcd.invalid:2379"}}.Config() // a proxy would have to resolve this
	require.NoError(t, err)
	client, err := clientv3.New(config)
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = client.Get(ctx, "key")
	require.Error(t, err)
	select {
	case <-asked:
		t.Fatal("the proxy is asked for etcd")
	default:
	}
}

func TestConfig_RefusesWhatIsNoEndpoint(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tls       bool
		endpoints []string
	}{
		"no port":                            {false, []string{"etcd"}},
		"no host":                            {false, []string{":2379"}},
		"one of several":                     {false, []string{"a:1", "b"}},
		"a space":                            {false, []string{"a:1", " b:2"}},
		"a URL without a port":               {false, []string{"http://etcd"}},
		"a path":                             {false, []string{"http://etcd:2379/v3"}},
		"a user":                             {false, []string{"http://user:secret@etcd:2379"}},
		"a query":                            {false, []string{"http://etcd:2379?x=y"}},
		"another scheme":                     {false, []string{"unix:///run/etcd.sock"}},
		"plain text and TLS":                 {false, []string{"http://a:1", "https://b:2"}},
		"plain text, where TLS is asked for": {true, []string{"http://a:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Settings{Endpoints: test.endpoints, TLS: test.tls}.Config()
			assert.ErrorContains(t, err, "ETCD_ENDPOINTS: ")
		})
	}
}
