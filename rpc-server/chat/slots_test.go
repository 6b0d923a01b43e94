package chat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file show how chats spread over a Redis Cluster.

// slotOf is the hash slot of a key: CRC16 (XMODEM) modulo 16384 of the key or, where
// it has one, of the text between its first { and the next }. Source: the Redis Cluster
// specification, "Key distribution model" and "Hash tags".
func slotOf(key string) int {
	if _, rest, found := strings.Cut(key, "{"); found {
		if tag, _, found := strings.Cut(rest, "}"); found && tag != "" {
			key = tag
		}
	}
	crc := uint16(0)
	for _, b := range []byte(key) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slotCount
}

func keyOf(t testing.TB, chat string) string {
	t.Helper()
	room, err := ParseRoom(chat)
	require.NoError(t, err)
	return room.key()
}

func TestSlots_AreThoseOfRedis(t *testing.T) {
	t.Parallel()
	client := ownCluster(t, 1)[0].client()
	defer client.Close()
	for _, chat := range []string{
		"jack:marcus", "jack:jack", "ä:🙂", "user1:user2", "user10:user2",
		"{a}:b", "{a}:c", "x{a}y:z", "{}:a", "{a:b}", "{a}{b}:c", "}a{:b", "a:{b", "a}:{b",
	} {
		want, err := client.ClusterKeySlot(t.Context(), keyOf(t, chat)).Result()
		require.NoError(t, err)
		assert.EqualValues(t, want, slotOf(keyOf(t, chat)), chat)
	}
}

func TestSlots_OfChatsThatShareAHashTagAreOne(t *testing.T) {
	t.Parallel()
	assert.Equal(t, slotOf(keyOf(t, "{team}ann:{team}bob")), slotOf(keyOf(t, "{team}ann:zoe")), "as with Redis")
	assert.NotEqual(t, slotOf(keyOf(t, "team-ann:team-bob")), slotOf(keyOf(t, "team-ann:zoe")))
}

// TestSlots_SpreadAMillionChatsEvenly gives the figures of docs/scaling.md.
func TestSlots_SpreadAMillionChatsEvenly(t *testing.T) {
	t.Parallel()
	const chats = 1_000_000
	random := rand.New(rand.NewPCG(1, 2))
	slots := make([]int, chats)
	for i := range slots {
		slots[i] = slotOf(keyOf(t, fmt.Sprintf("user%d:user%d", random.IntN(chats), random.IntN(chats))))
	}
	masters := []int{3, 12, 100}
	tests := []struct {
		what    string
		weight  func(i int) float64 // of chat i among all
		fullest []float64           // at most, in shares, for each number of masters
	}{
		{"all chats as busy as each other", func(int) float64 { return 1 }, []float64{1.01, 1.02, 1.05}},
		{"the n-th busiest has 1/n^0.8 of the messages of the first", func(i int) float64 { return math.Pow(float64(i+1), -0.8) }, []float64{1.02, 1.25, 2.5}},
	}
	for _, test := range tests {
		for i, n := range masters {
			load := make([]float64, n)
			total := 0.0
			for chat, slot := range slots {
				load[slot*n/slotCount] += test.weight(chat)
				total += test.weight(chat)
			}
			fullest := slices.Max(load) / total * float64(n)
			t.Logf("%s: the fullest of %d masters has %.3f times its share; the busiest chat has %.2f %% of all messages",
				test.what, n, fullest, 100*test.weight(0)/total)
			assert.Less(t, fullest, test.fullest[i], "%s, %d masters", test.what, n)
		}
	}
}
