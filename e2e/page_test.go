//go:build page

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

var pictures = flag.String("pictures", "", "folder to write pictures of the page to")

// browser starts Chromium. Tests get windows of it, each test in a profile of its own.
var browser = sync.OnceValues(func() (context.Context, error) {
	allocator, _ := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // which root has not
	)...)
	ctx, _ := chromedp.NewContext(allocator)
	return ctx, chromedp.Do(ctx) // it ends with this process
})

// profile is where windows share what a browser keeps, and its connections.
type profile struct {
	t    *testing.T
	base string // URL of the gateway
	ctx  context.Context
	may  *regexp.Regexp // what may be said of requests; nil is nothing

	mu    sync.Mutex
	wrong []string // errors, as the windows' consoles have them
	asked []string // URLs
}

// newProfile returns a profile for a test. At its end, no window may have had an error, nor
// asked another host.
func newProfile(t *testing.T, base string) *profile {
	t.Helper()
	started, err := browser()
	require.NoError(t, err)
	ctx, cancel := chromedp.NewContext(started, chromedp.WithNewBrowserContext())
	require.NoError(t, chromedp.Do(ctx))
	p := &profile{t: t, base: base, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		assert.Empty(t, p.wrong, "errors in the console")
		for _, asked := range p.asked {
			assert.True(t, strings.HasPrefix(asked, base+"/") || asked == "about:blank", "another host is asked: %s", asked)
		}
	})
	return p
}

// action is what is done in a window.
type action = chromedp.Action[chromedp.Void]

// window is one in which somebody has the page open.
type window struct {
	*profile
	ctx context.Context
}

// open opens a window at a path, as wide and high as said.
func (p *profile) open(path string, actions ...action) *window {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.ctx)
	p.t.Cleanup(cancel)
	w := &window{p, ctx}
	require.NoError(p.t, chromedp.Listen(ctx, w.listen))
	// Each window is as one that is looked at, whatever others are in front of it.
	_, err := chromedp.Call(ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	require.NoError(p.t, err)
	w.do(chromedp.EmulateViewport(1280, 800))
	w.do(actions...)
	w.do(chromedp.Navigate(p.base + path))
	return w
}

func (w *window) listen(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
		w.wrong = append(w.wrong, text)
	case *runtime.EventConsoleAPICalled:
		w.wrong = append(w.wrong, fmt.Sprintf("console.%s", e.Type))
	case *cdplog.EventEntryAdded:
		if e.Entry.Source != cdplog.EntrySourceNetwork || w.may == nil || !w.may.MatchString(e.Entry.Text) {
			w.wrong = append(w.wrong, fmt.Sprintf("%s %s: %s (%s)", e.Entry.Level, e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *network.EventRequestWillBeSent:
		w.asked = append(w.asked, e.Request.URL)
	}
}

// away is what is said of requests while a gateway is killed and comes back.
const away = `net::ERR_(CONNECTION|EMPTY)|status of 50[34]`

// mayFail lets requests fail from now on, if what is said of them matches.
func (p *profile) mayFail(pattern string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.may = regexp.MustCompile(pattern)
}

// do acts in the window.
func (w *window) do(actions ...action) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	require.NoError(w.t, chromedp.Do(ctx, actions...))
}

// eval returns what an expression is in the page.
func eval[T any](w *window, expression string) T {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	require.NoError(w.t, err, expression)
	return v
}

// run runs a statement in the page.
func (w *window) run(statement string) {
	w.t.Helper()
	eval[bool](w, "{"+statement+"}; true")
}

// until waits until an expression is true in the page.
func (w *window) until(expression string) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !eval[bool](w, "!!("+expression+")") {
		if time.Now().After(deadline) {
			require.Fail(w.t, "never true: "+expression, "the page says: %s", eval[string](w, "document.body.innerText"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// write types a message and sends it.
func (w *window) write(text string) {
	w.t.Helper()
	w.do(chromedp.SendKeys(chromedp.CSS("#text"), text))
	w.press("Enter", "\r", 13)
}

// press presses a key, which enters text.
func (w *window) press(key, text string, code int64) {
	w.t.Helper()
	params := input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: key, Code: key, Text: text, WindowsVirtualKeyCode: code}
	for range 2 {
		_, err := chromedp.Call(w.ctx, input.DispatchKeyEvent, params)
		require.NoError(w.t, err)
		params.Type, params.Text = input.DispatchKeyEventTypeKeyUp, ""
	}
}

// texts are those of the open chat, the oldest first.
func (w *window) texts() []string {
	w.t.Helper()
	return eval[[]string](w, `[...document.querySelectorAll("#log .text")].map((text) => text.textContent)`)
}

// has waits until the open chat has so many messages, and none is on its way.
func (w *window) has(n int) {
	w.t.Helper()
	w.until(fmt.Sprintf(`document.querySelectorAll("#log li").length === %d && !document.querySelector("#outbox li")`, n))
}

// visit is the path of who has a chat with somebody open.
func visit(me, with string) string {
	return "/?" + url.Values{"me": {me}, "with": {with}}.Encode()
}

// people are two names that no other test uses.
func people(t *testing.T) (jack, marcus string) {
	suffix := fmt.Sprintf(" %x", time.Now().UnixNano())
	return "jack" + suffix, "marcus" + suffix
}

func TestPage_TwoWindowsTalk(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	his := p.open("/?" + url.Values{"me": {marcus}}.Encode())
	his.until(`!document.getElementById("no-chats").hidden`)

	w := p.open("/")
	w.do(
		chromedp.SendKeys(chromedp.CSS("#me"), jack+kb.Enter),
		chromedp.SendKeys(chromedp.CSS("#with"), strings.ToUpper(marcus)+kb.Enter), // case does not matter
	)
	w.until(`document.getElementById("state").textContent === "Connected"`)
	w.write("hello")
	sent := time.Now()
	his.until(`document.querySelector("#chats .unread")?.textContent === "1 unread"`)
	t.Log("it was listed after", time.Since(sent))
	assert.Equal(t, "hello", eval[string](his, `document.querySelector("#chats .last").textContent`))
	assert.Equal(t, "(1) "+marcus+" – im", eval[string](his, `document.title`))
	w.has(1)
	w.write("are you there?")
	his.until(`document.querySelector("#chats .unread")?.textContent === "2 unread"`)

	his.do(chromedp.Click(chromedp.CSS("#chats a")))
	his.has(2)
	his.until(`!document.querySelector("#chats .unread") && document.title === "` + marcus + ` – im"`)
	sent = time.Now()
	his.write("yes 🙂")
	w.until(`document.querySelectorAll("#log li").length === 3`)
	t.Log("it was there after", time.Since(sent))
	want := []string{"hello", "are you there?", "yes 🙂"}
	assert.Equal(t, want, w.texts())
	assert.Equal(t, want, his.texts())
	w.until(`!document.querySelector("#chats .unread")`)
	assert.Equal(t, marcus+": yes 🙂", eval[string](w, `document.getElementById("news").lastChild.textContent`), "it is read aloud")

	// The link to the other one's window.
	w.until(`document.getElementById("other").getAttribute("href") === "` + "/?" + strings.ReplaceAll(url.Values{"me": {strings.ToUpper(marcus)}}.Encode()+"&"+url.Values{"with": {jack}}.Encode(), "%20", "+") + `"`)
}

// fill stores n messages, alternately of both: "message 0" and so on.
func fill(t *testing.T, base, one, other string, n int) {
	t.Helper()
	for i := range n {
		send(t, base, one+":"+other, fmt.Sprintf("message %d", i), []string{one, other}[i%2])
	}
}

// messages are the texts that fill stores.
func messages(n int) (texts []string) {
	for i := range n {
		texts = append(texts, fmt.Sprintf("message %d", i))
	}
	return texts
}

const (
	// top is the message at the top of what can be seen, and how far it is below the edge.
	top = `(() => { const edge = document.getElementById("scroll").getBoundingClientRect().top;
		const seen = [...document.querySelectorAll("#log li")].find((li) => li.getBoundingClientRect().bottom > edge);
		return seen.querySelector(".text").textContent + " at " + Math.round(seen.getBoundingClientRect().top - edge) })()`
	atEnd = `(() => { const s = document.getElementById("scroll"); return s.scrollHeight - s.scrollTop - s.clientHeight < 2 })()`
)

func TestPage_AReloadKeepsThePlace(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	fill(t, shared.URL(), jack, marcus, 300)
	w := p.open(visit(jack, marcus))
	w.until(`document.querySelectorAll("#log li").length >= 50 && ` + atEnd)
	w.do(chromedp.Reload())
	w.until(`document.querySelectorAll("#log li").length >= 50 && ` + atEnd)

	for range 5 {
		before := len(w.texts())
		w.run(`document.getElementById("scroll").scrollTop = 77`)
		w.until(fmt.Sprintf(`document.querySelectorAll("#log li").length > %d`, before))
	}
	time.Sleep(300 * time.Millisecond) // the screens above are loaded, too
	place := eval[string](w, top)
	w.do(chromedp.Reload())
	w.until(fmt.Sprintf(`document.querySelector("#log li") && %s === %q`, top, place))
	time.Sleep(300 * time.Millisecond)
	assert.Equal(t, place, eval[string](w, top), "it stays there")
	texts := w.texts()
	assert.Equal(t, messages(300)[300-len(texts):], texts)
}

// TestPage_WhoScrollsAwayAsNewsComeIsLeftThere scrolls in the moment before news are shown, when
// the page has not yet been told of it.
func TestPage_WhoScrollsAwayAsNewsComeIsLeftThere(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	fill(t, shared.URL(), jack, marcus, 120)
	w := p.open(visit(jack, marcus))
	w.until(`document.querySelectorAll("#log li").length === 50 && ` + atEnd + ` && document.querySelector("#chats li")`)
	w.run(`const fetched = window.fetch;
		window.fetch = async (path, ...more) => {
			const response = await fetched(path, ...more), text = await response.text();
			response.text = async () => {
				if (path.startsWith("/api/pull")) document.getElementById("scroll").scrollTop = 77;
				return text;
			};
			return response;
		}`)
	send(t, shared.URL(), jack+":"+marcus, "message 120", marcus)
	w.until(`document.querySelectorAll("#log li").length > 51 && !document.getElementById("newest").hidden`)
	assert.False(t, eval[bool](w, atEnd))
	texts := w.texts()
	assert.Equal(t, messages(121)[121-len(texts):], texts)
}

func TestPage_ScrollingBackRepeatsAndLosesNothing(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	fill(t, shared.URL(), jack, marcus, 300)
	w := p.open(visit(jack, marcus))
	w.until(`document.querySelectorAll("#log li").length >= 50`)
	const more = 60
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range more {
			status, err := post(shared.URL(), jack+":"+marcus, fmt.Sprintf("message %d", 300+i), marcus)
			assert.NoError(t, err)
			assert.Equal(t, http.StatusOK, status)
			time.Sleep(50 * time.Millisecond)
		}
	})
	for eval[bool](w, `document.getElementById("beginning").hidden`) {
		w.run(`document.getElementById("scroll").scrollTop = 0`)
		time.Sleep(50 * time.Millisecond)
	}
	assert.Less(t, len(w.texts()), 300+more, "messages come while older ones are read")
	sending.Wait()
	w.has(300 + more)
	assert.Equal(t, messages(300+more), w.texts())
	assert.False(t, eval[bool](w, atEnd), "who reads what is old is left there")
	w.do(chromedp.Click(chromedp.CSS("#newest")))
	w.until(atEnd)
}

func TestPage_AGatewayThatComesBackGetsEachMessageOnce(t *testing.T) {
	s := start(t, nil)
	p := newProfile(t, s.URL())
	p.mayFail(away)
	w, his := p.open(visit("jack", "marcus")), p.open(visit("marcus", "jack"))
	w.until(`document.getElementById("state").textContent === "Connected"`)
	var want []string
	write := func(text string) {
		want = append(want, text)
		w.write(text)
	}
	for round := range 3 {
		write(fmt.Sprintf("%d: before", round))
		s.Gateways[0].Kill()
		write(fmt.Sprintf("%d: away", round))
		write(fmt.Sprintf("%d: still away", round))
		w.until(`document.getElementById("state").textContent.includes("cannot be reached")`)
		w.until(`[...document.querySelectorAll("#outbox .about")].at(-1).textContent === "sending"`)
		if round == 2 { // what is on its way outlives a reload
			require.GreaterOrEqual(t, eval[int](w, `JSON.parse(sessionStorage.getItem("outbox")).length`), 2)
			w.do(chromedp.Navigate("about:blank"))
		}
		require.NoError(t, s.Gateways[0].Start())
		if round == 2 {
			require.NoError(t, s.Gateways[0].Wait(t.Context()))
			w.do(chromedp.Navigate(s.URL() + visit("jack", "marcus")))
		}
		w.has(len(want))
		his.has(len(want))
		w.until(`document.getElementById("state").textContent === "Connected"`)
	}
	assert.Equal(t, want, w.texts())
	assert.Equal(t, want, his.texts())
	var stored []string
	for _, m := range pullAll(t, s.URL(), "jack:marcus") {
		stored = append(stored, m.Text)
	}
	assert.Equal(t, want, stored)
}

func TestPage_TextIsText(t *testing.T) {
	_, suffix := people(t)
	jack, marcus := `<b>jack</b> & "co" `+suffix, `o'neil <img src=x onerror="document.title='hit'">`+suffix
	for name, text := range map[string]string{
		"markup":          `<img src=x onerror="document.title='hit'"><script>document.title='hit'</script>`,
		"right to left":   "שלום עולם, ¿qué tal?",
		"emoji":           "👩‍👩‍👧‍👦 🏳️‍🌈 🙂",
		"spaces and ends": "  two\n\n\tlines  ",
		"64 KiB":          strings.Repeat("sixteen letters ", 4096),
		"one long word":   strings.Repeat("x", 65536),
	} {
		t.Run(name, func(t *testing.T) {
			p := newProfile(t, shared.URL())
			jack, marcus := jack+name, marcus+name
			send(t, shared.URL(), jack+":"+marcus, text, jack)
			w := p.open(visit(marcus, jack))
			w.has(1)
			assert.Equal(t, []string{text}, w.texts())
			assert.Equal(t, jack, eval[string](w, `document.getElementById("chat-title").textContent`))
			assert.Zero(t, eval[int](w, `document.querySelectorAll("#chat li img, #chat li script, nav img, #console img, main b").length`))
			assert.Equal(t, marcus+" – im", eval[string](w, "document.title"))
			assert.Equal(t, eval[int](w, "document.documentElement.clientWidth"), eval[int](w, "document.documentElement.scrollWidth"), "nothing is wider than the window")
			if name == "right to left" {
				assert.Equal(t, "rtl", eval[string](w, `getComputedStyle(document.querySelector("#log .text")).direction`))
			}
			w.write("got it")
			w.has(2)
			sent := pullAll(t, shared.URL(), jack+":"+marcus)
			assert.Equal(t, "got it", sent[1].Text)
		})
	}
}

func TestPage_ThreeWindowsOfOneBrowser(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	ana := "ana" + jack
	windows := []*window{p.open(visit(jack, marcus)), p.open(visit(marcus, jack)), p.open(visit(ana, jack))}
	for _, w := range windows {
		w.until(`document.getElementById("state").textContent === "Connected"`)
		w.until(`[...document.querySelectorAll("#calls button")].some((call) => call.textContent.includes("waiting"))`)
	}
	for i, w := range windows {
		w.write(fmt.Sprint("of window ", i))
	}
	for _, w := range windows[:2] {
		w.has(2)
	}
	windows[2].has(1)
	windows[0].until(`document.querySelectorAll("#chats li").length === 2 && document.querySelector("#chats .unread").textContent === "1 unread"`)
}

func TestPage_WhoSignsInAnewLeavesNothingUnderWay(t *testing.T) {
	s := start(t, nil)
	p := newProfile(t, s.URL())
	p.mayFail(away)
	w := p.open(visit("jack", "marcus"))
	w.until(`document.getElementById("state").textContent === "Connected"`)
	s.Gateways[0].Kill()
	w.write("of jack")
	w.until(`document.getElementById("state").textContent.includes("cannot be reached")`)
	signIn := func(name string) {
		w.do(chromedp.SetValue(chromedp.CSS("#me"), name), chromedp.Click(chromedp.CSS("#who button")))
	}
	signIn("ana")
	require.NoError(t, s.Gateways[0].Start())
	w.until(`document.getElementById("state").textContent === "Connected"`)
	time.Sleep(2 * time.Second) // longer than any pause between tries
	assert.Equal(t, 1, eval[int](w, `[...document.querySelectorAll("#calls button")].filter((call) => call.textContent.includes("waiting")).length`), "one wait")
	for _, chat := range []string{"jack:marcus", "ana:marcus"} {
		assert.Empty(t, pullAll(t, s.URL(), chat))
	}
	signIn("jack")
	w.has(1)
	assert.Equal(t, "jack", pullAll(t, s.URL(), "jack:marcus")[0].Sender)

	// Nor is anything of the one left to see.
	send(t, s.URL(), "ops:jack", "for jack", "ops")
	w.until(`document.querySelector("#chats .unread")?.textContent === "1 unread"`)
	w.do(chromedp.SendKeys(chromedp.CSS("#text"), "a draft"))
	w.run(`history.replaceState(null, "", "/?me=jack&with=jack")`)
	signIn("marcus") // and his chat with jack is open
	w.has(1)
	w.until(`document.querySelectorAll("#chats li").length === 1`)
	assert.Empty(t, eval[string](w, `document.getElementById("text").value`))
	w.run(`history.pushState(null, "", "/"); window.dispatchEvent(new PopStateEvent("popstate"))`)
	for _, id := range []string{"scroll", "compose", "chat-head", "start"} {
		assert.False(t, eval[bool](w, fmt.Sprintf(`document.getElementById(%q).checkVisibility()`, id)), id)
	}
	assert.Equal(t, "im", eval[string](w, "document.title"))
	assert.Zero(t, eval[int](w, `document.querySelectorAll("#chats li").length`))
}

func TestPage_UnreadIsEachMembersOwn(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	fill(t, shared.URL(), jack, marcus, 6)
	send(t, shared.URL(), jack+":"+marcus, "the last one", jack)
	w := p.open(visit(jack, marcus))
	w.has(7)
	w.until(`[...document.querySelectorAll("#calls button")].some((call) => call.textContent.includes("read") && call.querySelector(".good"))`)
	w.run(`history.replaceState(null, "", "/")`)
	w.do(chromedp.SetValue(chromedp.CSS("#me"), marcus), chromedp.Click(chromedp.CSS("#who button")))
	w.until(`document.querySelector("#chats .unread")?.textContent === "1 unread"`)
}

func TestPage_AChatThatWentBackIsShownAnew(t *testing.T) {
	s := start(t, func(o *stack.Options) { o.Topology = stack.Single })
	p := newProfile(t, s.URL())
	fill(t, s.URL(), "jack", "marcus", 300)
	w := p.open(visit("jack", "marcus"))
	w.until(`document.querySelectorAll("#log li").length >= 50`)
	_, port, err := net.SplitHostPort(s.Redis[0].Addr)
	require.NoError(t, err)
	out, err := exec.Command("redis-cli", "-p", port, "flushall").CombinedOutput()
	require.NoError(t, err, "%s", out)
	w.run(`document.getElementById("scroll").scrollTop = 0`) // what is older is not there any more
	w.has(0)
	fill(t, s.URL(), "jack", "marcus", 3)
	w.has(3)
	assert.Equal(t, messages(3), w.texts())
}

func TestPage_MoreChatsThanAPage(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, _ := people(t)
	const n = 130
	for i := range n {
		send(t, shared.URL(), fmt.Sprintf("%s:friend-%d", jack, i), "hello", jack)
	}
	w := p.open("/?" + url.Values{"me": {jack}}.Encode())
	w.until(`document.querySelectorAll("#chats li").length === 100`)
	w.do(chromedp.Click(chromedp.CSS("#more-chats")))
	w.until(fmt.Sprintf(`document.querySelectorAll("#chats li").length === %d && document.getElementById("more-chats").hidden`, n))
	assert.Empty(t, eval[string](w, `document.getElementById("news").textContent`), "what is old is not read aloud")
	send(t, shared.URL(), jack+":friend-0", "news", "friend-0")
	w.until(fmt.Sprintf(`document.querySelector("#chats .who").textContent === "friend-0" && document.querySelectorAll("#chats li").length === %d`, n))
}

func TestPage_ASendThatIsRefusedSaysWhy(t *testing.T) {
	p := newProfile(t, shared.URL())
	p.mayFail("status of 400")
	jack, marcus := people(t)
	w := p.open(visit(jack, marcus))
	w.until(`document.getElementById("state").textContent === "Connected"`)
	w.do(chromedp.SetValue(chromedp.CSS("#text"), strings.Repeat("x", 65537)), chromedp.Click(chromedp.CSS("#compose button")))
	w.until(`document.querySelector("#outbox .failed .about")?.textContent.startsWith("Failed. 400: text: ")`)
	w.write("short")
	w.until(`document.querySelectorAll("#log li").length === 1`)
	w.do(chromedp.Click(chromedp.Search(`//button[text()="Discard"]`)))
	w.has(1)

	w.do(chromedp.SendKeys(chromedp.CSS("#with"), "a:b"+kb.Enter))
	w.until(`document.getElementById("problem").textContent.startsWith("400: chat: ")`)
}

func TestPage_WithTokens(t *testing.T) {
	const secret = "a secret of the test, long enough"
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(secret), 0o600))
	s := start(t, func(o *stack.Options) { o.Settings = append(o.Settings, "AUTH_HMAC_SECRET_FILE="+file) })
	p := newProfile(t, s.URL())
	p.mayFail("status of 40[13]")
	token := tokenOf(t, "jack", secret)

	w := p.open("/?me=jack", chromedp.EmulateViewport(360, 740))
	w.until(`document.getElementById("problem").textContent.startsWith("401: ") && document.getElementById("problem").checkVisibility()`)
	w.do(chromedp.SendKeys(chromedp.CSS("#token"), token+kb.Enter))
	w.until(`document.getElementById("state").textContent === "Connected"`)
	w.do(chromedp.SendKeys(chromedp.CSS("#with"), "marcus"+kb.Enter))
	w.write("hello")
	w.has(1)
	assert.True(t, eval[bool](w, `document.getElementById("problem").hidden`))
	shown := eval[string](w, `document.documentElement.textContent + location.href + JSON.stringify(sessionStorage) + JSON.stringify(localStorage) + document.cookie`)
	assert.NotContains(t, shown, token, "it is in memory only")
	assert.Contains(t, shown, `-H "Authorization: Bearer $TOKEN"`)

	w.do(chromedp.Navigate(s.URL()+"/?me=marcus"), chromedp.WaitVisible(chromedp.CSS("#problem")))
	w.do(chromedp.SendKeys(chromedp.CSS("#token"), token+kb.Enter))
	w.until(`document.getElementById("problem").textContent.startsWith("403: ")`)
}

func TestPage_CanBeSwitchedOff(t *testing.T) {
	s := start(t, func(o *stack.Options) { o.Settings = append(o.Settings, "PAGE=false") })
	for _, path := range []string{"/", "/app.css", "/app.js", "/icon.svg", "/README.md", "/im.postman_collection.json"} {
		resp, err := client.Get(s.URL() + path)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusNotFound, resp.StatusCode, path)
		resp, err = client.Get(shared.URL() + path)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusOK, resp.StatusCode, path)
	}
	send(t, s.URL(), "jack:marcus", "hello", "jack")
}

func TestPage_FirstPaintNeedsFourRequests(t *testing.T) {
	p := newProfile(t, shared.URL())
	w := p.open("/")
	w.until(`document.readyState === "complete"`)
	time.Sleep(300 * time.Millisecond)
	w.mu.Lock()
	asked := slices.Clone(w.asked)
	w.mu.Unlock()
	slices.Sort(asked)
	base := shared.URL()
	assert.Equal(t, []string{base + "/", base + "/app.css", base + "/app.js", base + "/icon.svg"}, asked)
	t.Log(eval[string](w, `[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].map((e) => new URL(e.name).pathname + ": " + e.transferSize + " bytes with the head").join(", ")`))

	w.do(chromedp.Reload())
	w.until(`document.readyState === "complete"`)
	assert.Equal(t, "[304,304,304]", eval[string](w, `JSON.stringify(["/app.css", "/app.js", "/icon.svg"].map((path) => { const call = new XMLHttpRequest(); call.open("GET", path, false);
		call.setRequestHeader("If-None-Match", "W/\"other\", " + ((head) => { head.open("HEAD", path, false); head.send(); return head.getResponseHeader("ETag") })(new XMLHttpRequest())); call.send(); return call.status }))`))
}

func TestPage_TheConsoleHasCurlLinesThatWork(t *testing.T) {
	p := newProfile(t, shared.URL())
	_, suffix := people(t)
	jack, marcus := `jack $HOME 'n' "q" \ `+"`id`"+suffix, "marcus"+suffix
	w := p.open(visit(jack, marcus))
	w.until(`document.getElementById("state").textContent === "Connected"`)
	text := `it's $HOME, "quoted" \n !`
	w.write(text)
	w.has(1)
	for _, c := range []struct{ call, answer string }{
		{"POST/api/send", "(empty)"},
		{"POST/api/read", `{"read": 1}`},
		{"GET/api/pull", ""},
		{"GET/api/chats", ""},
	} {
		t.Run(c.call, func(t *testing.T) {
			w.t = t
			choose := fmt.Sprintf(`[...document.querySelectorAll("#calls button")].find((call) => call.textContent.startsWith(%q) && call.querySelector(".good"))`, c.call)
			w.until(`!!` + choose)
			w.run(choose + ".click()")
			w.until(`document.querySelector("#calls [aria-pressed=true]").textContent.startsWith("` + c.call + `")`)
			line := eval[string](w, `document.getElementById("curl").textContent`)
			shown := eval[string](w, `document.getElementById("answer").textContent`)
			out, err := exec.Command("bash", "-c", strings.Replace(line, "curl ", "curl -sS --fail-with-body ", 1)).CombinedOutput()
			require.NoError(t, err, "%s\n%s", line, out)
			switch c.call {
			case "POST/api/send":
				assert.Empty(t, out)
				assert.Equal(t, c.answer, shown)
				stored := pullAll(t, shared.URL(), jack+":"+marcus)
				require.Len(t, stored, 1, "the line has the key, so that nothing is stored twice")
				assert.Equal(t, text, stored[0].Text)
			case "POST/api/read":
				assert.JSONEq(t, c.answer, string(out))
				assert.JSONEq(t, c.answer, shown)
			default:
				var page, said map[string]any
				require.NoError(t, json.Unmarshal(out, &page), "%s", out)
				require.NoError(t, json.Unmarshal([]byte(shown), &said), "%s", shown)
				assert.ElementsMatch(t, slices.Collect(maps.Keys(said)), slices.Collect(maps.Keys(page)))
				assert.Contains(t, shown, "\n  \"total\": ", "pretty-printed")
			}
			w.run(`document.querySelector("#calls [aria-pressed=true]").click()`)
		})
	}
	w.t = t
	w.until(`[...document.querySelectorAll("#calls button")].some((call) => call.textContent.includes("waiting"))`)
	w.do(chromedp.Click(chromedp.CSS("#copy")))
	w.until(`document.getElementById("copy").textContent !== "Copy"`)
	for _, link := range eval[[]string](w, `[...document.querySelectorAll("#console p a")].map((a) => a.getAttribute("href"))`) {
		resp, err := client.Get(shared.URL() + link)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusOK, resp.StatusCode, link)
	}
}

func TestPage_WorksByKeyboardAlone(t *testing.T) {
	p := newProfile(t, shared.URL())
	jack, marcus := people(t)
	send(t, shared.URL(), "ana:"+jack, "hello", "ana")
	w := p.open("/")
	w.until(`document.activeElement.id === "me"`)
	tab := func() string {
		w.press("Tab", "", 9)
		assert.True(t, eval[bool](w, `(({ outlineStyle, outlineWidth }) => outlineStyle === "solid" && parseFloat(outlineWidth) >= 2)(getComputedStyle(document.activeElement))`), "the focus is seen")
		return eval[string](w, `document.activeElement.id || document.activeElement.textContent`)
	}
	w.do(chromedp.KeyEvent(jack))
	w.press("Enter", "\r", 13)
	w.until(`document.querySelector("#chats a")`)
	for _, want := range []string{"token", "Sign in", "with"} {
		assert.Equal(t, want, tab())
	}
	w.do(chromedp.KeyEvent(marcus))
	w.press("Enter", "\r", 13)
	w.until(`document.activeElement.id === "text"`)
	w.do(chromedp.KeyEvent("hello"))
	w.press("Enter", "\r", 13)
	w.has(1)
	assert.Equal(t, "text", eval[string](w, `document.activeElement.id`), "the next message can be typed")
	w.until(`document.querySelectorAll("#chats a").length === 2`)
	w.run(`document.getElementById("me").focus()`)
	for _, want := range []string{"token", "Sign in", "with", "Open"} {
		assert.Equal(t, want, tab())
	}
	for _, with := range []string{marcus, "ana"} {
		assert.True(t, strings.HasPrefix(tab(), with))
	}
	w.press("Enter", "\r", 13) // opens it
	w.until(`document.getElementById("chat-title").textContent === "ana" && document.querySelectorAll("#log li").length === 1`)
	assert.Equal(t, "text", eval[string](w, `document.activeElement.id`))
	for _, want := range []string{"Send", "Calls", "OpenAPI", "Postman collection", "README", "calls"} {
		assert.Equal(t, want, tab())
	}
	w.until(`document.querySelectorAll("#calls button").length > 3`)
	assert.Contains(t, tab(), "/api/")
	w.press("Enter", "\r", 13)
	w.until(`document.querySelector("#calls [aria-pressed=true]") === document.activeElement`)
}

// What a page must be for everybody, by the rules of WCAG 2.2.
const (
	// lowContrast lists texts whose contrast with what is behind them is less than 4.5 to 1 (1.4.3).
	lowContrast = `(() => {
		const parse = (color) => color.match(/[\d.]+/g).map(Number);
		const light = (color) => parse(color).slice(0, 3).map((c) => c / 255).map((c) => (c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
		const behind = (e) => { for (; e; e = e.parentElement) { const color = getComputedStyle(e).backgroundColor; if ((parse(color)[3] ?? 1) > 0) return color; } };
		const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((a, b) => b - a); return (x + .05) / (y + .05); };
		const low = [];
		for (const e of document.body.querySelectorAll("*")) {
			if (!e.checkVisibility() || e.closest(".unseen, noscript")) continue;
			const check = (color, text) => { const c = contrast(color, behind(e)); if (!(c >= 4.5)) low.push(c.toFixed(2) + ": " + text.slice(0, 40)); };
			for (const n of e.childNodes) if (n.nodeType === Node.TEXT_NODE && n.textContent.trim()) check(getComputedStyle(e).color, n.textContent);
			if (e.placeholder) check(getComputedStyle(e, "::placeholder").color, e.placeholder);
		}
		return low;
	})()`
	// small lists what can be pressed that is less than 24 pixels wide or high (2.5.8), links in a line of text apart.
	small = `[...document.querySelectorAll("button, input, textarea, nav a, summary")].filter((e) => e.checkVisibility()).map((e) => [e.getBoundingClientRect(), e.id || e.textContent])
		.filter(([box]) => box.width < 24 || box.height < 24).map(([box, name]) => name + " " + box.width + " x " + box.height)`
	wide = `document.documentElement.scrollWidth > document.documentElement.clientWidth`
)

// named checks what assistive software is told of the page.
func (w *window) named(landmarks ...string) {
	w.t.Helper()
	tree, err := chromedp.Call(w.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	require.NoError(w.t, err)
	text := func(v *accessibility.Value) string {
		if v == nil {
			return ""
		}
		return strings.Trim(string(v.Value), `"`)
	}
	var found []string
	for _, node := range tree.Nodes {
		role, name := text(node.Role), text(node.Name)
		switch role {
		case "button", "textbox", "link", "DisclosureTriangle", "heading":
			assert.NotEmpty(w.t, name, "a %s has no name", role)
		case "banner", "main", "navigation", "region", "status", "log", "alert":
			found = append(found, strings.TrimSpace(role+" "+name))
		}
	}
	for _, landmark := range landmarks {
		assert.Contains(w.t, found, landmark)
	}
	assert.Equal(w.t, 1, eval[int](w, `document.querySelectorAll("h1").length`))
	assert.NotEmpty(w.t, eval[string](w, `document.documentElement.lang`))
	assert.Empty(w.t, eval[[]string](w, `[...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i)`), "an id is there twice")
}

func TestPage_IsForEverybody(t *testing.T) {
	s := start(t, nil)
	for _, m := range []struct{ sender, other, text string }{
		{"ana", "jack", "Have you seen the faults table?"},
		{"zoe", "jack", "שלום! נתראה מחר?"},
		{"jack", "ops", "Deployed 0.1.0 to staging."},
		{"ops", "jack", "Killing an rpc-server now."},
		{"ops", "jack", "0 failed, 0 lost."},
		{"marcus", "jack", "Hi! Is the new backend up?"},
		{"jack", "marcus", "It is. Two gateways, two rpc-servers, one Redis."},
		{"marcus", "jack", "And when I kill one of them?"},
		{"jack", "marcus", "Nothing happens. Each of these was acknowledged after it was on disk, and a retry with the same Idempotency-Key stores nothing twice."},
		{"marcus", "jack", "I have just killed both gateways, one after the other. Nothing is missing."},
	} {
		send(t, s.URL(), m.sender+":"+m.other, m.text, m.sender)
	}
	for _, size := range [][2]int64{{1280, 800}, {360, 740}} {
		for _, scheme := range []string{"light", "dark"} {
			t.Run(fmt.Sprintf("%d-%s", size[0], scheme), func(t *testing.T) {
				p := newProfile(t, s.URL())
				w := p.open("/", chromedp.EmulateViewport(size[0], size[1]))
				_, err := chromedp.Call(w.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
				require.NoError(t, err)
				check := func(view string, landmarks ...string) {
					t.Helper()
					if *pictures != "" {
						picture, err := chromedp.Run(w.ctx, chromedp.CaptureScreenshot())
						require.NoError(t, err)
						name := fmt.Sprintf("page-%s-%d-%s.png", view, size[0], scheme)
						if name == "page-console-1280-light.png" {
							name = "page.png" // which the README shows
						}
						require.NoError(t, os.WriteFile(filepath.Join(*pictures, name), picture, 0o644))
					}
					assert.Empty(t, eval[[]string](w, lowContrast), view)
					assert.Empty(t, eval[[]string](w, small), view)
					assert.False(t, eval[bool](w, wide), "%s is wider than the window", view)
					w.named(append(landmarks, "banner", "main", "status")...)
				}
				w.until(`!document.getElementById("intro").hidden`)
				check("intro")
				w.do(chromedp.Navigate(s.URL() + "/?me=jack"))
				w.until(`document.querySelectorAll("#chats li").length === 4`)
				check("list", "navigation Chats", "log")
				w.do(chromedp.Click(chromedp.CSS(`#chats a[href*="marcus"]`)))
				w.has(5)
				w.until(`[...document.querySelectorAll("#calls button")].some((call) => call.textContent.includes("read"))`)
				assert.True(t, eval[bool](w, atEnd))
				check("chat", "region Messages", "region marcus")
				w.run(`document.getElementById("console").open = true; document.querySelector("#calls button:has(.good)").click()`)
				w.until(`!document.getElementById("shown").hidden`)
				check("console", "region The call that is chosen")
				if size[0] == 360 {
					w.do(chromedp.Click(chromedp.CSS("#back")))
					w.until(`document.querySelector("nav").checkVisibility() && !document.getElementById("scroll").checkVisibility()`)
				}
			})
		}
	}
}
