// The page for trying im. A window is one member: it has one wait, on the list of the member's
// chats, and pulls the open chat when that answers.

const $ = (id) => document.getElementById(id);
const pageSize = 50, largestPage = 1000, listSize = 100, longestWait = 50; // seconds
const callsKept = 40, longestAnswer = 1 << 18;

let me = '', token = ''; // the token is kept nowhere else
let session = new AbortController(); // ends when another member signs in
let chats = []; // as the service listed them
let listPages = 1, nextChats = 0; // how much of the list is shown, and the cursor of what is not
let chat = null; // the open one
let following = true; // whether its end was on the screen when it was last scrolled
const marks = new Map(); // by room: how far it is read, as the service last said
const drafts = new Map(); // by member and room: what is not sent yet
let outbox = JSON.parse(sessionStorage.getItem('outbox') ?? '[]'); // sends without an answer, for a reload

const element = (tag, properties, ...children) => {
	const made = Object.assign(document.createElement(tag), properties);
	made.append(...children);
	return made;
};
const query = (fields) => new URLSearchParams(Object.entries(fields).filter(([, value]) => value)).toString().replaceAll('%3A', ':');
// fold is the service's rule for case: a letter is lower-cased if that upper-cases back to it.
const fold = (name) => Array.from(name, (c) => (c.toLowerCase().toUpperCase() === c ? c.toLowerCase() : c)).join('');
const same = (a, b) => fold(a) === fold(b);
const roomOf = (name) => [fold(me), fold(name)].sort().join(':');
// listed has the rooms of a list as roomOf writes them: the service sorts by bytes, which is another order at times.
const listed = (chats) => chats.map((c) => ({ ...c, chat: c.chat.split(':').sort().join(':') }));
const partnerOf = (room) => room.split(':').find((name) => !same(name, me)) ?? room.split(':')[0];
const timeOf = (seconds) => {
	const at = new Date(1000 * seconds);
	const today = at.toDateString() === new Date().toDateString();
	return element('time', { dateTime: at.toISOString(), textContent: at.toLocaleString([], { timeStyle: 'short', ...(today ? {} : { dateStyle: 'short' }) }) });
};

// --- Calls, and the console that shows them

// Problem is why a call failed. One that passes is worth another try.
class Problem extends Error {
	constructor(detail, status = 0, retryAfter = 0) {
		super(detail);
		this.passes = status === 0 || status === 408 || status === 429 || status >= 500;
		this.rest = 1000 * retryAfter;
	}
}

async function call(method, path, { body, key, seconds = 0 } = {}) {
	const headers = {};
	if (token) headers.Authorization = `Bearer ${token}`;
	if (key) headers['Idempotency-Key'] = key;
	if (body) headers['Content-Type'] = 'application/json';
	const request = { method, path, headers, body: body && JSON.stringify(body), seconds };
	const ended = show(request);
	const { signal } = session;
	let response, text;
	try {
		response = await fetch(path, { ...request, signal: AbortSignal.any([signal, AbortSignal.timeout(1000 * (seconds + 30))]) });
		text = await response.text();
	} catch (error) {
		ended(signal.aborted ? 'left' : 'failed', String(error));
		throw new Problem(navigator.onLine ? 'The service cannot be reached.' : 'This device is offline.');
	}
	ended(response.status, text);
	let answer;
	try {
		answer = JSON.parse(text || '{}');
	} catch {
		throw new Problem(`The answer is not im’s: ${response.status} ${response.statusText}`, response.status);
	}
	if (!response.ok) throw new Problem(`${response.status}: ${answer.detail}`, response.status, Number(response.headers.get('Retry-After')) || 0);
	return answer;
}

// persist makes a call until it succeeds, or fails in a way that does not pass. The pauses
// between are random, and grow.
async function persist(attempt) {
	const { signal } = session;
	for (let tries = 0; ; tries++) {
		try {
			const answer = await attempt(tries);
			signal.throwIfAborted();
			say('Connected', 'good');
			return answer;
		} catch (error) {
			signal.throwIfAborted();
			if (!error.passes) throw error;
			say(`${error.message} Trying again …`, 'bad');
			await pause(Math.max(error.rest, Math.min(4000, 250 * 2 ** tries)) * (1 + Math.random()), signal);
		}
	}
}

async function pause(milliseconds, signal) {
	const over = new AbortController();
	await new Promise((resolve) => {
		setTimeout(resolve, milliseconds);
		signal.addEventListener('abort', resolve, { signal: over.signal });
		window.addEventListener('online', resolve, { signal: over.signal });
	});
	over.abort();
	signal.throwIfAborted();
}

function say(text, kind) {
	if ($('state').textContent !== text) $('state').textContent = text; // else it is read aloud again
	$('state').className = kind;
}

// complain shows what a call of the member ended with, if it is not that the member left.
function complain(error) {
	if (!(error instanceof Problem)) {
		if (error.name === 'AbortError') return;
		throw error;
	}
	$('problem').textContent = error.message;
	$('problem').hidden = false;
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curlOf({ path, headers, body, seconds }) {
	const parts = ['curl'];
	if (seconds) parts.push(`--max-time ${seconds + 10}`);
	if (headers.Authorization) parts.push('-H "Authorization: Bearer $TOKEN"');
	if (headers['Idempotency-Key']) parts.push(`-H ${quote(`Idempotency-Key: ${headers['Idempotency-Key']}`)}`);
	if (body) parts.push(`-d ${quote(body)}`);
	parts.push(quote(location.origin + path));
	return parts.join(' ');
}

let chosen = null; // the call that the panel shows; without one it shows the latest

// show adds a call to the console. The function that it returns is told how the call ended.
function show(request) {
	const began = performance.now();
	const status = element('span', { textContent: request.seconds ? 'waiting' : '…' });
	const took = element('span', { className: 'took' });
	const button = element('button', { type: 'button', ariaPressed: 'false' },
		element('span', { textContent: request.method }), element('span', { className: 'path', textContent: request.path, title: request.path }), status, took);
	const entry = { curl: curlOf(request), answer: '(none yet)' };
	button.onclick = () => {
		$('calls').querySelector('[aria-pressed=true]')?.setAttribute('aria-pressed', 'false');
		chosen = chosen === entry ? null : entry;
		button.ariaPressed = String(chosen === entry);
		detail(entry);
	};
	$('calls').prepend(element('li', {}, button));
	while ($('calls').children.length > callsKept) {
		if ($('calls').lastChild.firstChild.ariaPressed === 'true') chosen = null;
		$('calls').lastChild.remove();
	}
	return (ending, text) => {
		status.textContent = ending;
		status.className = ending >= 200 && ending < 300 ? 'good' : 'bad';
		took.textContent = `${Math.round(performance.now() - began)} ms`;
		entry.answer = text.length > longestAnswer ? `${text.slice(0, longestAnswer)} …` : text;
		if (chosen === entry || !chosen) detail(entry);
	};
}

function detail({ curl, answer }) {
	$('shown').hidden = false;
	$('curl').textContent = curl;
	try {
		answer = JSON.stringify(JSON.parse(answer), null, 2);
	} catch { /* not JSON: shown as it is */ }
	$('answer').textContent = answer || '(empty)';
}

$('copy').onclick = async () => {
	try {
		await navigator.clipboard.writeText($('curl').textContent);
		$('copy').textContent = 'Copied';
	} catch { // only over HTTPS and on localhost may a page copy; elsewhere the reader can
		getSelection().selectAllChildren($('curl'));
		$('copy').textContent = 'Selected';
	}
	setTimeout(() => { $('copy').textContent = 'Copy'; }, 1500);
};

// --- The list of chats

async function followList() {
	const { signal } = session;
	for (let total = 0, first = true; ; first = false) {
		const began = performance.now();
		const answer = await persist((tries) => { // after a failure at once, to know that it is over
			const seconds = first || tries ? 0 : longestWait;
			return call('GET', `/api/chats?${query({ member: me, limit: listSize, total, wait: seconds })}`, { seconds });
		});
		const moved = answer.total !== total, back = answer.total < total;
		total = answer.total;
		if (back) marks.clear();
		const list = listed(answer.chats);
		let next = answer.has_more && answer.next_cursor;
		for (let n = 1; n < listPages && next; n++) next = await addPage(list, next);
		[chats, nextChats] = [list, next];
		if (!first) tellOfOthers();
		for (const { chat: room, total } of chats) totals.set(room, total);
		showList();
		$('no-chats').hidden = chats.length > 0;
		const open = chat && chats.find((c) => c.chat === chat.room);
		if (chat && (open ? open.total !== chat.end : back)) pullNews(chat).catch(complain);
		if (!moved && !first && performance.now() - began < 1000) await pause(1000, signal); // nothing to wait for
	}
}

// addPage adds a page to a list, and returns the cursor of the next one. A chat that moved
// meanwhile is there already.
async function addPage(list, cursor) {
	const page = await persist(() => call('GET', `/api/chats?${query({ member: me, limit: listSize, cursor })}`));
	const known = new Set(list.map((c) => c.chat));
	for (const c of listed(page.chats)) {
		if (!known.has(c.chat)) list.push(c);
		if (!totals.has(c.chat)) totals.set(c.chat, c.total); // it is no news
	}
	return page.has_more && page.next_cursor;
}

$('more-chats').onclick = async () => {
	listPages++;
	try {
		nextChats = await addPage(chats, nextChats);
		showList();
	} catch (error) {
		complain(error);
	}
};

function showList() {
	const list = $('chats'), focused = document.activeElement;
	const shown = new Map([...list.children].map((item) => [item.dataset.room, item]));
	chats.forEach((c, i) => {
		const name = partnerOf(c.chat), unread = unreadOf(c), shows = JSON.stringify([unread, c.last]);
		const item = shown.get(c.chat) ?? element('li', {}, element('a', { href: `/?${query({ me, with: name })}` }));
		shown.delete(c.chat);
		item.dataset.room = c.chat;
		item.firstChild.ariaCurrent = chat?.room === c.chat ? 'true' : null;
		if (item.shows !== shows) {
			item.shows = shows;
			item.firstChild.replaceChildren(
				element('span', { className: 'who', textContent: name }), timeOf(c.last.send_time),
				element('span', { className: 'last', textContent: `${same(c.last.sender, me) ? 'You: ' : ''}${c.last.text.slice(0, 200)}` }),
				...(unread ? [element('span', { className: 'unread' }, unread < 100 ? `${unread}` : '99+', element('span', { className: 'unseen', textContent: ' unread' }))] : []));
		}
		if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
	});
	for (const item of shown.values()) item.remove();
	if (focused !== document.activeElement) focused.focus({ preventScroll: true }); // it was moved
	$('more-chats').hidden = !nextChats;
	const unread = chats.reduce((sum, c) => sum + unreadOf(c), 0);
	document.title = me ? `${unread ? `(${unread}) ` : ''}${me} – im` : 'im';
}

// unreadOf is the count of a listed chat, unless it was read after it was counted.
const unreadOf = (c) => (marks.get(c.chat) >= c.total ? 0 : c.unread);

const totals = new Map(); // by room, as last listed

// tellOfOthers reads aloud what came in chats that are not open.
function tellOfOthers() {
	for (const { chat: room, total, last } of chats) {
		if (total > (totals.get(room) ?? 0) && chat?.room !== room && !same(last.sender, me)) tell(`${last.sender}: ${last.text}`);
	}
}

function tell(news) {
	$('news').append(element('p', { textContent: news.slice(0, 300) }));
	while ($('news').children.length > 5) $('news').firstChild.remove();
}

// --- The open chat: the messages from position begin up to end

function openChat(name) {
	leave();
	chat = { name, room: roomOf(name), begin: 0, end: 0, pin: 0, mark: 0 };
	$('log').replaceChildren();
	$('problem').hidden = true;
	for (const id of ['chat-head', 'scroll', 'compose']) $(id).hidden = false;
	for (const id of ['intro', 'newest', 'beginning']) $(id).hidden = true;
	$('text').value = drafts.get(`${me} ${chat.room}`) ?? '';
	$('chat-title').textContent = name;
	$('back').href = `/?${query({ me })}`;
	$('other').href = `/?${query({ me: name, with: me })}`;
	$('other').textContent = `Open as ${name} ↗`;
	$('other').hidden = same(name, me);
	document.body.classList.add('open');
	showList();
	showOutbox();
	chat.loaded = loadNewest(chat);
	return chat.loaded;
}

function leave() {
	if (chat) drafts.set(`${me} ${chat.room}`, $('text').value);
	chat = null;
}

// inChat makes a call of the open chat, which is not tried again once the chat was left.
const inChat = (opened, ...request) => persist(() => {
	if (opened !== chat) throw new DOMException('the chat was left', 'AbortError');
	return call(...request);
});
const pull = (opened, fields) => inChat(opened, 'GET', `/api/pull?${query({ chat: `${me}:${opened.name}`, ...fields })}`);

async function loadNewest(opened) {
	const page = await pull(opened, { limit: pageSize, reverse: true });
	if (opened !== chat) return;
	opened.pin = opened.end = page.total;
	opened.begin = page.total - page.next_cursor;
	$('log').append(...page.messages.reverse().map(itemOf));
	$('beginning').hidden = opened.begin > 0;
	const restored = await restorePlace(opened);
	if (opened === chat) (restored ? scrolled : showEnd)();
}

const itemOf = (message) => {
	const own = same(message.sender, me);
	return element('li', { className: own ? 'own' : '' },
		element('p', { className: 'about' }, element('span', { className: own ? 'unseen' : '', textContent: own ? 'You' : message.sender }), ' ', timeOf(message.send_time), own ? ' · sent' : ''),
		textOf(message.text));
};

// textOf shows a text as it is. One that is long scrolls, also by keyboard.
const textOf = (text) => {
	const shown = element('p', { className: 'text', dir: 'auto', textContent: text });
	if (text.length > 1000) shown.tabIndex = 0;
	return shown;
};

// loadOlder puts the page before the first one before it. The reader stays where he is.
async function loadOlder(opened, limit = pageSize) {
	if (opened.begin === 0 || opened.loading) return;
	opened.loading = true;
	try {
		const page = await pull(opened, { limit, reverse: true, cursor: opened.pin - opened.begin, total: opened.pin });
		if (opened !== chat) return;
		if (page.total !== opened.pin) return await openChat(opened.name); // the chat went back
		const fromEnd = $('scroll').scrollHeight - $('scroll').scrollTop;
		opened.begin = opened.pin - page.next_cursor;
		$('log').prepend(...page.messages.reverse().map(itemOf));
		$('beginning').hidden = opened.begin > 0;
		$('scroll').scrollTop = $('scroll').scrollHeight - fromEnd;
	} finally {
		opened.loading = false;
	}
}

// fill loads what can be seen and a screen above.
async function fill(opened) {
	while (opened === chat && opened.begin > 0 && !opened.loading && $('scroll').scrollTop < $('scroll').clientHeight) await loadOlder(opened);
}

// pullNews appends what is stored by now. Only one pull of news is under way at a time.
function pullNews(opened) {
	opened.stale = true;
	opened.pulling ??= (async () => {
		try {
			await opened.loaded;
			while (opened === chat && opened.stale) {
				opened.stale = false;
				const page = await pull(opened, { cursor: opened.end, limit: largestPage });
				if (opened !== chat) return;
				if (page.total < opened.end) return await openChat(opened.name); // the chat went back
				opened.stale ||= page.has_more;
				append(opened, page.messages);
			}
		} finally {
			opened.pulling = null;
		}
	})();
	return opened.pulling;
}

function append(opened, messages) {
	const follow = atEnd();
	opened.end += messages.length;
	$('log').append(...messages.map(itemOf));
	for (const { sender, text } of messages) {
		const own = same(sender, me) && outbox.find((m) => m.me === me && m.room === opened.room && m.text === text && !m.arrived && m.state !== 'failed');
		if (own) own.arrived = true; // its acknowledgement is under way
		else if (!same(sender, me)) tell(`${sender}: ${text}`);
	}
	showOutbox();
	if (follow || messages.some((m) => same(m.sender, me))) showEnd();
	else if (messages.length) $('newest').hidden = false;
}

const atEnd = () => $('scroll').scrollHeight - $('scroll').scrollTop - $('scroll').clientHeight < 40;

function showEnd() {
	$('scroll').scrollTop = $('scroll').scrollHeight;
	scrolled();
}

function scrolled() {
	if (!chat) return;
	following = atEnd();
	if (following) $('newest').hidden = true;
	fill(chat).catch(complain);
	markRead(chat).catch(complain);
}

$('scroll').onscroll = scrolled;
$('newest').onclick = () => { showEnd(); $('scroll').focus(); };
document.onvisibilitychange = scrolled;
new ResizeObserver(() => { if (chat && following) showEnd(); }).observe($('scroll'));

// markRead says that the chat is read, while its end is on the screen.
async function markRead(opened) {
	if (opened.marking) return;
	opened.marking = true;
	try {
		while (opened === chat && opened.mark < opened.end && !document.hidden && atEnd()) {
			opened.mark = opened.end;
			const answer = await inChat(opened, 'POST', '/api/read', { body: { chat: `${me}:${opened.name}`, member: me, read: opened.mark } });
			marks.set(opened.room, answer.read);
			showList();
		}
	} finally {
		opened.marking = false;
	}
}

// The place that a reload keeps is the first message on the screen.
window.onpagehide = () => {
	const top = $('scroll').getBoundingClientRect().top, items = [...$('log').children];
	if (!chat || !items.length) return;
	const index = items.findIndex((item) => item.getBoundingClientRect().bottom > top);
	if (atEnd() || index < 0) return sessionStorage.removeItem('place');
	sessionStorage.setItem('place', JSON.stringify({ me, room: chat.room, position: chat.begin + index, offset: top - items[index].getBoundingClientRect().top }));
};

async function restorePlace(opened) {
	const place = JSON.parse(sessionStorage.getItem('place') ?? 'null');
	sessionStorage.removeItem('place');
	if (place?.me !== me || place.room !== opened.room || place.position >= opened.end) return false;
	while (opened === chat && opened.begin > place.position) await loadOlder(opened, Math.min(largestPage, opened.begin - place.position + pageSize));
	if (opened !== chat) return false;
	$('scroll').scrollTop += $('log').children[place.position - opened.begin].getBoundingClientRect().top - $('scroll').getBoundingClientRect().top + place.offset;
	return true;
}

// --- Sending: one at a time, in order, each with a key of its own until it is answered

$('compose').onsubmit = (event) => {
	event.preventDefault();
	const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
	outbox.push({ me, name: chat.name, room: chat.room, text: $('text').value, key, state: 'sending' });
	$('text').value = '';
	showOutbox();
	showEnd();
	deliver(chat.room);
};
$('text').onkeydown = (event) => {
	if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) /* an input method's */ return;
	event.preventDefault();
	$('compose').requestSubmit();
};

let delivering = new Set(); // rooms to which sends are under way in this session

async function deliver(room) {
	const { signal } = session, own = delivering;
	if (own.has(room)) return;
	own.add(room);
	for (let m; (m = outbox.find((m) => m.me === me && m.room === room && m.state === 'sending'));) {
		try {
			await persist(() => call('POST', '/api/send', { body: { chat: `${me}:${m.name}`, text: m.text, sender: me }, key: m.key }));
			m.state = 'sent';
			const stored = chat?.room === m.room ? pullNews(chat) : Promise.resolve();
			stored.catch(complain).finally(() => { outbox = outbox.filter((other) => other !== m); showOutbox(); });
		} catch (error) {
			if (signal.aborted) return;
			if (!(error instanceof Problem)) throw error;
			Object.assign(m, { state: 'failed', arrived: false, why: error.message });
			tell(`Not sent. ${error.message}`);
		}
		showOutbox();
	}
	own.delete(room);
}

function showOutbox() {
	try {
		sessionStorage.setItem('outbox', JSON.stringify(outbox.filter((m) => m.state !== 'sent').map((m) => ({ ...m, arrived: false }))));
	} catch { /* more than the browser keeps: a reload forgets it */ }
	const follow = atEnd();
	$('outbox').replaceChildren(...outbox.filter((m) => m.me === me && m.room === chat?.room && !m.arrived).map((m) => {
		const item = element('li', { className: `own ${m.state}` }, element('p', { className: 'about', textContent: m.state === 'failed' ? `Failed. ${m.why}` : m.state }), textOf(m.text));
		if (m.state === 'failed') {
			item.append(
				element('button', { type: 'button', textContent: 'Send again', onclick: () => { m.state = 'sending'; showOutbox(); $('text').focus(); deliver(m.room); } }),
				element('button', { type: 'button', textContent: 'Discard', onclick: () => { outbox = outbox.filter((other) => other !== m); showOutbox(); $('text').focus(); } }));
		}
		return item;
	}));
	if (follow) $('scroll').scrollTop = $('scroll').scrollHeight;
}

// --- Who one is, and which chat is open: the address says both

$('who').onsubmit = (event) => {
	event.preventDefault();
	token = $('token').value.trim();
	const name = new URLSearchParams(location.search).get('with');
	history.pushState(null, '', `/?${query({ me: $('me').value, with: name })}`);
	signIn();
};
$('start').onsubmit = (event) => {
	event.preventDefault();
	go(`/?${query({ me, with: $('with').value })}`);
	$('with').value = '';
};
document.onclick = (event) => {
	const link = event.target.closest('#chats a, #back');
	if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser opens a window
	event.preventDefault();
	go(link.href);
};
window.onpopstate = () => visit();

function go(address) {
	history.pushState(null, '', address);
	visit();
	(!chat ? $('chats-title') : matchMedia('(pointer: coarse)').matches ? $('chat-title') : $('text')).focus(); // there a keyboard would rise
}

// visit opens what the address says.
function visit() {
	const address = new URLSearchParams(location.search);
	if ((address.get('me') ?? '') !== me) return signIn();
	const name = me && address.get('with');
	if (name && chat?.room !== roomOf(name)) openChat(name).catch(complain);
	if (name) return;
	leave();
	document.body.classList.remove('open');
	for (const id of ['chat-head', 'scroll', 'compose', 'newest', 'problem']) $(id).hidden = true;
	showList();
}

function signIn() {
	session.abort();
	[session, delivering] = [new AbortController(), new Set()];
	leave();
	const address = new URLSearchParams(location.search);
	if (me !== (address.get('me') ?? '')) [chats, listPages, nextChats] = [[], 1, 0];
	me = address.get('me') ?? '';
	$('me').value = me;
	totals.clear();
	marks.clear();
	$('problem').hidden = $('no-chats').hidden = true;
	document.body.classList.toggle('signed-in', me !== '');
	$('start').hidden = $('intro').hidden = false;
	if (!me) {
		$('start').hidden = true;
		say('', '');
		visit();
		return $('me').focus();
	}
	say('Connecting …', '');
	visit();
	for (const m of outbox) if (m.me === me) deliver(m.room);
	followList().catch((error) => {
		complain(error);
		if (error instanceof Problem) say('Not connected', 'bad');
	});
}

$('console').open = !matchMedia('(max-width: 64rem)').matches;
signIn();
