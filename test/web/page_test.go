package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browser is a tab, and what happened in it that should not.
type browser struct {
	t      *testing.T
	ctx    context.Context
	mu     sync.Mutex
	faults []string
	gone   bool // requests may fail
}

func open(t *testing.T) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 1400), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(ctx)
	watchdog := time.AfterFunc(3*time.Minute, end) // what hangs fails then
	t.Cleanup(func() { watchdog.Stop(); end(); stop() })
	b := &browser{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	call(b, network.Enable, network.EnableParams{})
	call(b, log.Enable, cdp.Empty{})
	call(b, runtime.Enable, cdp.Empty{})
	return b
}

// call runs a command of the browser's protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	r, err := chromedp.Call(b.ctx, command, params)
	b.must(err)
	return r
}

// run carries out an action and returns its result.
func run[T any](b *browser, a chromedp.Action[T]) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, a)
	b.must(err)
	return v
}

func (b *browser) must(err error) {
	b.t.Helper()
	if err != nil {
		b.checkQuiet()
		b.t.Fatal(err)
	}
}

// hear notes errors on the console, and requests to anybody but weir.
func (b *browser) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fault := func(format string, args ...any) { b.faults = append(b.faults, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Host != address {
			fault("request to %s", e.Request.URL)
		}
	case *network.EventWebSocketCreated:
		fault("web socket to %s", e.URL)
	case *runtime.EventConsoleAPICalled:
		fault("console: %s %s", e.Type, e.Args[0].Value)
	case *runtime.EventExceptionThrown:
		fault("exception: %v", e.ExceptionDetails)
	case *log.EventEntryAdded:
		if !b.gone || e.Entry.Source != log.EntrySourceNetwork {
			fault("log: %s %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
		}
	}
}

func (b *browser) checkQuiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		b.t.Error(f)
	}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.must(chromedp.Do(b.ctx, actions...))
}

// await waits until an expression of JavaScript is true.
func (b *browser) await(what, expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if run(b, chromedp.Evaluate[bool]("Boolean("+expression+")")) {
			return
		}
	}
	text := run(b, chromedp.Evaluate[string]("document.body.innerText"))
	b.checkQuiet()
	b.t.Fatalf("%s: never; the page says\n%s", what, text)
}

// has is an expression that holds if a part of the page has a text.
func has(selector, text string) string {
	return fmt.Sprintf("(document.querySelector(%q) || {innerText: ''}).innerText.includes(%q)", selector, text)
}

func (b *browser) shot(name string) {
	dir := os.Getenv("WEIR_WEB_SHOTS")
	if dir == "" {
		return
	}
	png := run(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func service(name, ip string, endpoints ...string) string {
	text := fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default, creationTimestamp: 2026-01-01T00:00:00Z}
spec: {clusterIPs: [%[2]s], ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
`, name, ip)
	for i, e := range endpoints {
		text += fmt.Sprintf("- {addresses: [%s], nodeName: node%d, zone: zone-%c, conditions: {ready: true}}\n", e, i/2+1, 'a'+i/2)
	}
	return text
}

func manifests() map[string]string {
	return map[string]string{
		"web.yaml":  service("web", "10.96.0.10", "10.244.1.10", "10.244.1.11", "10.244.2.10"),
		"api.yaml":  service("api", "10.96.0.11", "10.244.1.20"),
		"late.yaml": strings.Replace(service("latecomer", "10.96.0.11", "10.244.1.20"), "2026-01-01", "2026-02-01", 1),
		"node.yaml": "apiVersion: v1\nkind: Node\nmetadata: {name: node1, labels: {topology.kubernetes.io/zone: zone-a}}\n",
	}
}

func TestPage(t *testing.T) {
	w := startWeir(t, manifests())
	b := open(t)
	b.do(chromedp.Navigate("http://" + address + "/"))
	b.await("services are shown", has("#list", "default/web")+" && "+has("#list", "10.96.0.10")+" && "+has("#list", "3 of 3"))
	b.await("the node and its health", has("#health", "healthy")+" && "+has("#node", "node1, zone zone-a"))
	b.await("a conflict", has("#trouble", "default/latecomer")+" && "+has("#trouble", "default/api"))
	b.await("changes", "document.querySelectorAll('#chart rect').length > 0 && "+has("#chart-text", "the slowest"))
	b.shot("light")

	w.write("web.yaml", service("web", "10.96.0.10", "10.244.1.10", "10.244.1.11", "10.244.2.10", "10.244.2.11", "10.244.3.10"))
	b.await("a live change", has("#list", "5 of 5"))
	w.write("fresh.yaml", service("fresh", "10.96.0.12", "10.244.1.30"))
	b.await("a new service", has("#list", "default/fresh"))

	// By keyboard alone: / reaches the filter, Tab the first service, Enter opens it, Escape closes it.
	b.do(chromedp.KeyEvent("/"))
	b.await("/ reaches the filter", "document.activeElement.id === 'filter'")
	b.do(chromedp.KeyEvent("fault/we"))
	b.await("words with a slash begin with the namespace", has("#matched", "none of 4 Services"))
	run(b, chromedp.Evaluate[any]("document.activeElement.select()"))
	b.do(chromedp.KeyEvent("WEB"))
	b.await("the filter filters", "document.querySelectorAll('#list tr').length === 1 && "+has("#list", "default/web"))
	b.await("and says so", has("#live", "1 of 4 Services"))
	b.do(chromedp.KeyEvent(kb.Tab + kb.Tab + kb.Enter)) // the page buttons are disabled; the table scrolls
	b.await("a service opens", "document.activeElement.id === 'detail' && "+has("#detail", "10.244.3.10 port 8080")+" && "+has("#detail", "node1 (this node)")+" && "+has("#detail", "zone-c"))
	b.await("its button says so", "document.querySelector('#list button').getAttribute('aria-expanded') === 'true'")
	b.checkAccessible()
	b.shot("detail")
	b.prefer("prefers-color-scheme", "dark")
	b.await("dark", "getComputedStyle(document.body).backgroundColor === 'rgb(17, 22, 27)'")
	b.checkContrast("dark")
	b.shot("dark")
	b.prefer("prefers-color-scheme", "light")
	b.checkContrast("light")
	b.do(chromedp.KeyEvent(kb.Escape))
	b.await("Escape closes it and gives the focus back", "document.getElementById('detail').hidden && document.activeElement.textContent === 'default/web'")
	b.do(chromedp.EmulateViewport(360, 800))
	b.await("nothing is wider than a small screen", "document.documentElement.scrollWidth <= 360")
	b.shot("small")
	b.do(chromedp.ResetViewport())
	b.checkQuiet()

	b.mu.Lock()
	b.gone = true
	b.mu.Unlock()
	w.stop()
	b.await("weir is gone", has("#health", "no answer")+" && "+has("#live", "does not answer"))
	b.shot("gone")
	w.start()
	b.await("weir is back", has("#health", "healthy")+" && !document.body.classList.contains('gone')")
	b.checkQuiet()
}

// prefer sets what the page asks of its reader by media queries.
func (b *browser) prefer(feature, value string) {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: feature, Value: value}}})
}

// checkAccessible holds that everything that can be used has a name, and what is more a role that fits.
func (b *browser) checkAccessible() {
	b.t.Helper()
	nodes := call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	text := func(v *accessibility.Value) string {
		if v == nil {
			return ""
		}
		return strings.Trim(string(v.Value), `"`)
	}
	found := map[string]int{}
	for _, n := range nodes {
		role, name := text(n.Role), text(n.Name)
		if n.Ignored {
			continue
		}
		found[role]++
		switch role {
		case "button", "searchbox", "table", "region", "link", "heading", "columnheader", "img", "image":
			if name == "" {
				b.t.Errorf("a %s without a name", role)
			}
		}
	}
	for _, want := range []string{"searchbox", "button", "table", "rowheader", "columnheader", "status", "main", "banner", "heading"} {
		if found[want] == 0 {
			b.t.Errorf("there is no %s among %v", want, found)
		}
	}
}

// checkContrast holds that text is told from its background: 4.5 to 1, as WCAG 2.2 has it (1.4.3).
func (b *browser) checkContrast(scheme string) {
	b.t.Helper()
	bad := run(b, chromedp.Evaluate[[]string](`(() => {
		const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
		const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
		const back = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
		const bad = [];
		for (const e of document.querySelectorAll('body *')) {
			if (e.disabled || e.closest('svg') || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || e.getClientRects().length === 0) continue;
			const a = light(parse(getComputedStyle(e).color)), z = light(back(e));
			const ratio = (Math.max(a, z) + 0.05) / (Math.min(a, z) + 0.05);
			if (ratio < 4.5) bad.push(e.tagName + ' "' + e.textContent.trim().slice(0, 30) + '": ' + ratio.toFixed(2));
		}
		return bad;
	})()`))
	for _, x := range bad {
		b.t.Errorf("%s: contrast of %s to 1", scheme, x)
	}
}

// However many services there are, the page holds a hundred.
func TestPageOfManyServices(t *testing.T) {
	const many = 5000
	var all strings.Builder
	for i := range many {
		fmt.Fprintf(&all, "%s---\n", service(fmt.Sprintf("s-%04d", i), fmt.Sprintf("10.96.%d.%d", 1+i/250, 1+i%250), fmt.Sprintf("10.244.%d.%d", i/250, 1+i%250)))
	}
	startWeir(t, map[string]string{"all.yaml": all.String()})
	b := open(t)
	b.do(chromedp.Navigate("http://" + address + "/"))
	b.await("the first page", has("#matched", "1 to 100 of 5,000 Services"))
	b.await("no more than that is in the page", "document.querySelectorAll('#list tr').length === 100")
	b.do(chromedp.Click("#next"))
	b.await("the second page", has("#matched", "101 to 200 of 5,000 Services")+" && "+has("#list", "default/s-0100"))
	b.do(chromedp.SendKeys("#filter", "s-4321"))
	b.await("a filter goes back to the first page", has("#matched", "1 of 5,000 Services")+" && "+has("#list", "default/s-4321"))
	b.checkQuiet()
}

// A page of somebody else, whose name leads to this machine, gets nothing.
func TestForeignNames(t *testing.T) {
	startWeir(t, manifests())
	for host, want := range map[string]int{"localhost:10257": 200, "127.0.0.1:10257": 200, "evil.example:10257": 421} {
		r, err := http.NewRequest("GET", "http://"+address+"/data/overview", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("as %s: %d, want %d", host, answer.StatusCode, want)
		}
	}
}
