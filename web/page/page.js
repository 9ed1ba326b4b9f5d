'use strict';
// Everything that comes from the server is text: elements are made, and markup is never parsed.
(() => {
  const $ = (id) => document.getElementById(id);
  const every = 2000, slowest = 30000, patience = 10000, drawn = 120;
  const state = { syncs: [], after: 0, started: '', dns: null, offset: 0, size: 100, open: null, failures: 0, timer: 0, round: 0 };

  function element(tag, text, attributes) {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
    return e;
  }
  // put replaces text only where it differs, so that nothing flickers and no selection is lost.
  function put(e, text) { if (e.textContent !== text) e.textContent = text; }
  const say = (text) => put($('live'), text);

  function seconds(s) {
    if (!s) return '–';
    if (s < 0.001) return (s * 1e6).toFixed(0) + ' µs';
    if (s < 1) return (s * 1e3).toPrecision(3) + ' ms';
    return s.toPrecision(3) + ' s';
  }
  const count = (n) => n.toLocaleString('en');
  const clock = (t) => new Date(t).toLocaleTimeString('en-GB');
  const bytes = (n) => (n / (1 << 20)).toFixed(0) + ' MiB';

  function figures(list, pairs) {
    const have = new Map([...list.children].map((d) => [d.firstChild.textContent, d]));
    for (const [name, value] of pairs) {
      let d = have.get(name);
      have.delete(name);
      if (!d) {
        d = element('div');
        d.append(element('dt', name), element('dd'));
        list.append(d);
      }
      put(d.lastChild, value);
    }
    for (const d of have.values()) d.remove();
  }

  // rows makes a table body hold these rows: [key, [cells]]. Rows that stay are kept, and so is the focus.
  function rows(body, list) {
    const have = new Map([...body.children].map((r) => [r.dataset.key, r]));
    list.forEach(([key, cells], at) => {
      let row = have.get(key);
      have.delete(key);
      if (!row) {
        row = element('tr');
        row.dataset.key = key;
      }
      if (body.children[at] !== row) body.insertBefore(row, body.children[at] || null);
      cells.forEach((cell, k) => {
        const c = typeof cell === 'object' ? cell : { text: cell };
        let td = row.children[k];
        if (!td) {
          td = element(k === 0 ? 'th' : 'td');
          if (k === 0) td.scope = 'row';
          row.append(td);
          if (c.press) {
            const b = element('button', c.text, { type: 'button', class: 'name' });
            b.addEventListener('click', c.press);
            td.append(b);
          }
        }
        if (c.press) {
          td.firstChild.setAttribute('aria-expanded', String(Boolean(c.open)));
          td.firstChild.setAttribute('aria-controls', 'detail');
        } else {
          put(td, c.text);
        }
        const wanted = c.class || '';
        if (td.className !== wanted) td.className = wanted;
      });
    });
    for (const r of have.values()) r.remove();
  }

  function chart() {
    const list = state.syncs.slice(-drawn), svg = $('chart');
    const value = (s) => s.delay || s.duration;
    const make = (tag, attributes, text) => {
      const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
      for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
      if (text !== undefined) e.textContent = text;
      return e;
    };
    const low = 1e-4, high = Math.max(0.01, ...list.map(value)) * 1.2, left = 60, height = 165;
    const y = (s) => height - height * Math.log(Math.max(s, low) / low) / Math.log(high / low);
    const parts = [];
    for (let line = low; line <= high; line *= 10) {
      parts.push(make('line', { x1: left, x2: 960, y1: y(line), y2: y(line) }), make('text', { x: 0, y: Math.max(12, y(line) + 4) }, seconds(line)));
    }
    const step = (960 - left) / drawn;
    list.forEach((s, k) => {
      const top = y(value(s));
      parts.push(make('rect', { x: left + (drawn - list.length + k) * step, y: top, width: step * 0.7, height: Math.max(2, height - top), class: s.error ? 'failed' : '' }));
    });
    svg.replaceChildren(...parts);
    const sorted = list.map(value).sort((a, b) => a - b);
    const text = sorted.length === 0 ? 'No change yet' :
      `${sorted.length === 1 ? 'One change' : `The last ${sorted.length} changes`}: half took at most ${seconds(sorted[Math.floor((sorted.length - 1) / 2)])}, the slowest ${seconds(sorted[sorted.length - 1])}` +
      (list.some((s) => s.error) ? `; ${list.filter((s) => s.error).length} failed` : '');
    if (svg.getAttribute('aria-label') !== text) svg.setAttribute('aria-label', text);
    put($('chart-text'), text + '. Time from a change being seen until the kernel had it, on a logarithmic scale; latest on the right.');
  }

  function showOverview(o) {
    const s = o.status;
    if (state.started !== s.started) { // another process: its syncs are counted anew
      const again = state.started !== '';
      state.started = s.started;
      state.dns = null;
      if (again) {
        state.syncs = [];
        state.after = 0;
        say('Weir has been started again.');
        return;
      }
    }
    for (const x of o.syncs) if (x.id > state.after) { state.syncs.push(x); state.after = x.id; }
    state.syncs = state.syncs.slice(-drawn);
    put($('node'), s.node + (s.zone ? ', zone ' + s.zone : ''));
    const health = $('health');
    put(health, s.healthy ? 'healthy' : 'not healthy');
    health.dataset.state = s.healthy ? 'good' : 'bad';
    document.title = `Weir on ${s.node}: ${health.textContent}`;
    const reasons = [...(s.reasons || []), ...(s.warnings || [])];
    $('reasons').hidden = reasons.length === 0;
    $('reasons').dataset.state = s.healthy ? 'wait' : 'bad';
    if ([...$('reasons').children].map((l) => l.textContent).join() !== reasons.join()) {
      $('reasons').replaceChildren(...reasons.map((r) => element('li', r)));
    }
    figures($('figures'), [
      ['Services', count(s.sizes.services)], ['Endpoints', count(s.sizes.endpoints)], ['Frontends', count(s.sizes.frontends)],
      ['Slots', count(s.sizes.slots)], ['Syncs', count(s.syncs.count) + (s.syncs.failed ? `, ${count(s.syncs.failed)} failed` : '')],
      ['Delay, median', seconds(s.syncs.delay.p50)], ['Delay, 99 %', seconds(s.syncs.delay.p99)],
      ['Memory', bytes(s.memory.resident || s.memory.heap)], ['Tables protected', s.kernel.owned ? 'yes' : 'no (kernel before 6.9)'],
      ['Tables rebuilt', count(s.kernel.rebuilt)], ['Refused transactions', count(s.kernel.refused)],
    ]);
    chart();
    rows($('syncs'), state.syncs.slice(-8).reverse().map((x) => [String(x.id), [
      clock(x.time), x.error ? { text: `${x.what}: ${x.error}`, class: 'low' } : x.what,
      { text: seconds(x.delay), class: 'n' }, { text: seconds(x.duration), class: 'n' }]]));
    const trouble = [
      ...(s.setAside || []).map((a) => ['aside ' + a.service, ['Set aside', a.service || 'the service CIDRs', `${a.reason}; tried again at ${clock(a.retry)}`]]),
      ...(s.conflicts || []).map((c) => [`conflict ${c.frontend.protocol} ${c.frontend.address} ${c.frontend.port}`,
        ['Contested', c.losers.join(', '), `${c.frontend.protocol} ${c.frontend.address} port ${c.frontend.port} is the older ${c.winner}'s`]]),
    ];
    $('no-trouble').hidden = trouble.length > 0;
    $('trouble-scroll').hidden = trouble.length === 0;
    rows($('trouble'), trouble.slice(0, 200));
    showDNS(o);
    put($('foot'), `weir ${s.weir.version}, process ${s.pid}, since ${new Date(s.started).toLocaleString('en-GB')}; Services from ${s.source.from}`);
  }

  function showDNS(o) {
    $('dns').hidden = !o.dns;
    if (!o.dns) return;
    const was = state.dns, now = new Date(o.time).getTime();
    state.dns = { ...o.dns, at: now };
    if (!was || now <= was.at) return;
    const rate = (kind, key) => ((o.dns[kind][key] || 0) - (was[kind][key] || 0)) * 1000 / (now - was.at);
    const perSecond = (n) => n.toFixed(n < 10 ? 1 : 0) + ' /s';
    const pairs = [];
    for (const zone of Object.keys(o.dns.queries).sort()) {
      pairs.push([zone === '.' ? 'Queries for upstreams' : `Queries in ${zone}`, perSecond(rate('queries', zone))]);
    }
    for (const code of Object.keys(o.dns.responses).sort()) pairs.push([`Answers ${code}`, perSecond(rate('responses', code))]);
    pairs.push(['Waiting for an upstream', count(o.dns.outstanding)]);
    const s = o.status.dns;
    if (s) pairs.push(['Answers here', s.serving && s.alive ? 'yes' : 'no: ' + (s.reason || 'other servers answer')]);
    figures($('dns-figures'), pairs);
  }

  function showServices(p) {
    state.offset = p.offset;
    state.size = p.size;
    const last = Math.min(p.offset + p.size, p.matched);
    const text = p.matched === 0 ? `none of ${count(p.total)} Services` :
      (p.matched > p.size ? `${count(p.offset + 1)} to ${count(last)} of ` : '') +
      `${count(p.matched)}${p.matched < p.total ? ' of ' + count(p.total) : ''} Services`;
    if ($('matched').textContent !== text) {
      if ($('filter').value !== '') say(text);
      put($('matched'), text);
    }
    $('previous').disabled = p.offset === 0;
    $('next').disabled = last >= p.matched;
    rows($('list'), p.items.map((s) => {
      const key = s.namespace + '/' + s.name;
      return [key, [
        { text: key, press: () => toggle(s.namespace, s.name), open: state.open && state.open.key === key },
        { text: s.addresses.join(', '), class: 'mono' }, s.ports.join(', '),
        { text: `${count(s.ready)} of ${count(s.total)}`, class: s.ready === 0 && s.total > 0 ? 'n low' : 'n' }, s.note || '']];
    }));
  }

  function table(caption, heads, body) {
    const t = element('table'), head = element('tr'), b = element('tbody');
    t.append(element('caption', caption, { class: 'hide' }));
    for (const h of heads) head.append(element('th', h, { scope: 'col' }));
    const th = element('thead');
    th.append(head);
    rows(b, body);
    t.append(th, b);
    const region = element('div', undefined, { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption });
    region.append(t);
    return region;
  }

  const condition = (e) => [e.ready ? 'ready' : 'not ready', e.terminating ? (e.serving ? 'terminating, serving' : 'terminating') : '', e.onNode ? 'on this node' : '']
    .filter(Boolean).join(', ');

  function showDetail(s) {
    put($('detail-title'), `${s.namespace}/${s.name}`);
    const parts = [], facts = element('dl', undefined, { class: 'figures' });
    figures(facts, [['Internal traffic policy', s.internalTrafficPolicy], ['External traffic policy', s.externalTrafficPolicy],
      ['Session affinity', s.sessionAffinity + (s.affinityTimeout ? ', ' + seconds(s.affinityTimeout) : '')]]);
    parts.push(facts);
    (s.ports || []).forEach((p, k) => {
      const name = `${p.family}, port ${p.port}/${p.protocol}${p.name ? ' (' + p.name + ')' : ''}`;
      parts.push(element('h3', name));
      if ((p.frontends || []).length) {
        parts.push(table('Frontends of ' + name, ['Kind', 'Address', 'New connections'], p.frontends.slice(0, 100).map((f) => [`${f.kind} ${f.address} ${f.port}`,
          [f.kind, { text: `${f.address} port ${f.port}`, class: 'mono' }, f.takenBy ? 'taken by ' + f.takenBy : f.verdict + (f.localVerdict ? `; from outside ${f.localVerdict}` : '')]])));
      }
      parts.push(table('Where the endpoints of ' + name + ' are', ['Zone', 'Node', 'Ready'], s.places[k].map((x) => [`${x.zone} ${x.node}`,
        [x.zone || 'not known', (x.node || 'not known') + (x.here ? ' (this node)' : ''), `${count(x.ready)} of ${count(x.total)}`]])));
      const shown = p.endpoints || [];
      parts.push(table('Endpoints of ' + name, ['Endpoint', 'Zone', 'Node', 'Condition', 'Slot'], shown.map((e) => [`${e.address} ${e.port}`,
        [{ text: `${e.address} port ${e.port}`, class: 'mono' }, e.zone || '', e.node || '', condition(e), e.slot === undefined ? 'none' : String(e.slot)]])));
      if (p.total > shown.length) parts.push(element('p', `The first ${count(shown.length)} of ${count(p.total)} endpoints. weir services shows all.`));
    });
    $('detail-body').replaceChildren(...parts);
  }

  function toggle(namespace, name) {
    const key = namespace + '/' + name;
    if (state.open && state.open.key === key) { close(); return; }
    state.open = { key, namespace, name, text: '' };
    refresh().then(() => { if (state.open) { $('detail').hidden = false; $('detail').focus(); } });
  }

  function close() {
    const key = state.open && state.open.key;
    state.open = null;
    $('detail').hidden = true;
    for (const b of $('list').querySelectorAll('button')) {
      if (b.textContent === key) { b.setAttribute('aria-expanded', 'false'); b.focus(); }
    }
  }

  async function ask(path) {
    const r = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(patience) });
    if (r.status === 404) return null;
    if (!r.ok) throw new Error(`${r.status} ${await r.text()}`);
    return r.json();
  }

  // refresh asks for everything once, and then sees to the next time. Of two that overlap the later counts.
  async function refresh() {
    clearTimeout(state.timer);
    const round = ++state.round, open = state.open;
    let wait = every;
    try {
      const query = new URLSearchParams({ q: $('filter').value, offset: state.offset });
      const [overview, page, detail] = await Promise.all([ask('data/overview?after=' + state.after), ask('data/services?' + query),
        open ? ask('data/service?' + new URLSearchParams({ namespace: open.namespace, name: open.name })) : null]);
      if (round !== state.round) return;
      if (state.failures > 0) { say('Weir answers again.'); document.body.classList.remove('gone'); }
      state.failures = 0;
      showOverview(overview);
      if (open && state.open === open && !detail) { say(`The Service ${open.key} is gone.`); close(); }
      showServices(page);
      const text = JSON.stringify(detail);
      if (detail && state.open === open && open.text !== text) { open.text = text; showDetail(detail); }
    } catch (err) {
      if (round !== state.round) return;
      wait = Math.min(every * 2 ** state.failures++, slowest);
      document.body.classList.add('gone');
      $('health').dataset.state = 'bad';
      put($('health'), 'no answer');
      document.title = 'Weir: no answer';
      say(`Weir does not answer; what you see is from before. Asked again every ${Math.round(wait / 1000)} s.`);
    }
    state.timer = setTimeout(refresh, document.hidden ? slowest : wait);
  }

  let typing = 0;
  $('filter').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => { state.offset = 0; refresh(); }, 150); });
  $('previous').addEventListener('click', () => { state.offset = Math.max(0, state.offset - state.size); refresh(); });
  $('next').addEventListener('click', () => { state.offset += state.size; refresh(); });
  $('close').addEventListener('click', close);
  document.addEventListener('keydown', (e) => {
    if (e.key === '/' && e.target !== $('filter') && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); $('filter').focus(); }
    if (e.key === 'Escape' && state.open) close();
  });
  document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
  refresh();
})();
