package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// postmanItem is a folder or a request of a Postman collection, or, at the top,
// the collection.
type postmanItem struct {
	Name  string
	Item  []postmanItem
	Event []struct {
		Listen string
		Script struct{ Exec []string }
	}
	Request *struct {
		Method string
		Header []struct{ Key, Value string }
		Body   struct{ Mode, Raw string }
		URL    struct {
			Raw   string
			Host  []string
			Path  []string
			Query []struct{ Key, Value string }
		}
		Description string
	}
	ProtocolProfileBehavior struct{ DisableBodyPruning bool }
}

// script is what runs before the request ("prerequest") or after it ("test").
func (i postmanItem) script(listen string) string {
	var lines []string
	for _, event := range i.Event {
		if event.Listen == listen {
			lines = append(lines, event.Script.Exec...)
		}
	}
	return strings.Join(lines, "\n")
}

// postmanCollection is the one of the checkout, with its variables.
func postmanCollection(t *testing.T) (collection postmanItem, variables map[string]string) {
	t.Helper()
	text, err := os.ReadFile("../docs/im.postman_collection.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &collection))
	var more struct {
		Info     struct{ Schema string }
		Variable []struct{ Key, Value string }
	}
	require.NoError(t, json.Unmarshal(text, &more))
	require.Equal(t, "https://schema.getpostman.com/json/collection/v2.1.0/collection.json", more.Info.Schema)
	variables = map[string]string{}
	for _, v := range more.Variable {
		variables[v.Key] = v.Value
	}
	return collection, variables
}

// resolve puts the variables into text.
func resolve(t *testing.T, text string, variables map[string]string) string {
	t.Helper()
	for name, value := range variables {
		text = strings.ReplaceAll(text, "{{"+name+"}}", value)
	}
	require.NotContains(t, text, "{{", "a variable is not known")
	return text
}

// What this test understands of the scripts.
var (
	wantedStatus = regexp.MustCompile(`pm\.response\.to\.have\.status\((\d+)\)`)
	wantedDetail = regexp.MustCompile(`pm\.expect\(pm\.response\.json\(\)\.detail\)\.to\.include\("(.+)"\)`)
	keptField    = regexp.MustCompile(`pm\.collectionVariables\.set\("(\w+)", pm\.response\.json\(\)\.(\w+)\)`)
)

func TestPostman_EveryRequestIsWellFormedAndHasATest(t *testing.T) {
	collection, variables := postmanCollection(t)
	assert.Equal(t, "http://localhost:8080", variables["baseUrl"])
	assert.Contains(t, collection.script("prerequest"), `pm.collectionVariables.set("chat", "jack-" + Date.now() + ":marcus")`)

	var names []string
	for _, folder := range collection.Item {
		names = append(names, folder.Name)
		for _, item := range folder.Item {
			names = append(names, item.Name)
			require.NotNil(t, item.Request, item.Name)
			assert.NotEmpty(t, item.Request.Description, item.Name)
			assert.Contains(t, item.script("test"), "pm.test(", item.Name)
			assert.Contains(t, item.script("test"), "pm.expect(", item.Name)
			assert.Regexp(t, wantedStatus, item.script("test"), item.Name)
			if item.Request.Method == http.MethodGet && item.Request.Body.Mode != "" {
				assert.True(t, item.ProtocolProfileBehavior.DisableBodyPruning, "Postman drops the body of %s", item.Name)
			}

			u := item.Request.URL // twice: as text, and in parts
			parts := strings.Join(u.Host, ".") + "/" + strings.Join(u.Path, "/")
			for i, parameter := range u.Query {
				parts += map[bool]string{true: "?", false: "&"}[i == 0] + parameter.Key + "=" + parameter.Value
			}
			assert.Equal(t, parts, u.Raw, item.Name)
		}
	}
	assert.Equal(t, []string{"Calls", "Errors"}, []string{collection.Item[0].Name, collection.Item[1].Name})
	slices.Sort(names)
	assert.Equal(t, slices.Compact(slices.Clone(names)), names, "every name is there once")
}

func TestPostman_EveryRequestGetsTheAnswerThatItsTestWants(t *testing.T) {
	collection, variables := postmanCollection(t)
	variables["baseUrl"] = shared.URL()
	variables["chat"] = fmt.Sprintf("jack-%d:marcus", time.Now().UnixNano())
	statuses := map[string]int{}
	for _, folder := range collection.Item {
		for _, item := range folder.Item {
			t.Run(item.Name, func(t *testing.T) {
				var headers []string
				for _, h := range item.Request.Header {
					headers = append(headers, h.Key, resolve(t, h.Value, variables))
				}
				req := newRequest(t, item.Request.Method, resolve(t, item.Request.URL.Raw, variables), resolve(t, item.Request.Body.Raw, variables), headers...)
				resp, body := do(t, req)
				for _, want := range wantedStatus.FindAllStringSubmatch(item.script("test"), -1) {
					require.Equal(t, want[1], strconv.Itoa(resp.StatusCode), "%s", body)
					statuses[folder.Name+" "+want[1]]++
				}

				if folder.Name == "Errors" {
					var p problem
					require.NoError(t, json.Unmarshal(body, &p))
					assert.Equal(t, inProblem, resp.Header.Get("Content-Type"))
					assert.Equal(t, resp.StatusCode, p.Status)
					detail := wantedDetail.FindStringSubmatch(item.script("test"))
					require.NotNil(t, detail, "the script says which error it is")
					assert.Contains(t, p.Detail, detail[1])
				}
				for _, kept := range keptField.FindAllStringSubmatch(item.script("test"), -1) {
					var answer map[string]json.RawMessage
					require.NoError(t, json.Unmarshal(body, &answer))
					require.Contains(t, answer, kept[2])
					variables[kept[1]] = string(answer[kept[2]])
				}
			})
		}
	}
	for _, status := range []string{"Calls 200", "Errors 400", "Errors 404", "Errors 405"} {
		assert.Positive(t, statuses[status], status)
	}
	assert.Len(t, statuses, 4)
	assert.Len(t, pullAll(t, shared.URL(), variables["chat"]), 2, "hello, and what was sent twice with one key")
}
