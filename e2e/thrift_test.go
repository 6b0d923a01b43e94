package e2e

import (
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/thrift_gen/rpc"
)

// transports are how a client of Apache Thrift may speak the binary protocol.
var transports = map[string]thrift.TTransportFactory{
	"framed":   thrift.NewTFramedTransportFactoryConf(thrift.NewTTransportFactory(), &thrift.TConfiguration{}),
	"buffered": thrift.NewTBufferedTransportFactory(8192),
}

func dialThrift(t *testing.T, factory thrift.TTransportFactory, addr string) *rpc.IMServiceClient {
	t.Helper()
	transport, err := factory.GetTransport(thrift.NewTSocketConf(addr, &thrift.TConfiguration{}))
	require.NoError(t, err)
	require.NoError(t, transport.Open())
	t.Cleanup(func() { transport.Close() })
	return rpc.NewIMServiceClientFactory(transport, thrift.NewTBinaryProtocolFactoryConf(&thrift.TConfiguration{}))
}

func TestThrift_AnyBinaryClientSendsAndPulls(t *testing.T) {
	for name, factory := range transports {
		t.Run(name, func(t *testing.T) {
			client := dialThrift(t, factory, shared.RPCServers[0].Addr)
			chat, sender, _ := newChat(t)
			key := "key"
			for range 2 {
				sent, err := client.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{Chat: chat, Text: "hello", Sender: sender}, Key: &key})
				require.NoError(t, err)
				assert.Equal(t, &rpc.SendResponse{}, sent)
			}
			for range 2 {
				sent, err := client.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{Chat: chat, Text: "again", Sender: sender}})
				require.NoError(t, err)
				assert.Equal(t, int32(rpc.Code_OK), sent.Code)
			}

			pulled, err := client.Pull(t.Context(), &rpc.PullRequest{Chat: chat, Limit: 2})
			require.NoError(t, err)
			require.Len(t, pulled.Messages, 2)
			first := pulled.Messages[0]
			assert.Equal(t, &rpc.Message{Chat: chat, Text: "hello", Sender: sender, SendTime: first.SendTime}, first)
			assert.True(t, pulled.GetHasMore())
			assert.EqualValues(t, 2, pulled.GetNextCursor())
			assert.EqualValues(t, 3, pulled.GetTotal())

			reverse := true
			pulled, err = client.Pull(t.Context(), &rpc.PullRequest{Chat: chat, Cursor: 2, Reverse: &reverse})
			require.NoError(t, err)
			require.Len(t, pulled.Messages, 1)
			assert.Equal(t, first, pulled.Messages[0])

			refused, err := client.Send(t.Context(), &rpc.SendRequest{Message: &rpc.Message{Chat: chat, Text: "hello", Sender: "bob"}})
			require.NoError(t, err)
			assert.Equal(t, int32(rpc.Code_INVALID), refused.Code)
			assert.Contains(t, refused.Msg, "is not a member")
		})
	}
}
