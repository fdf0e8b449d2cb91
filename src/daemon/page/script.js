
"use strict";
const EVERY_MS = 2000;
const KEPT_MS = 300000;
const ROWS_MAX = 100;
const NAMED_MAX = 5;
const SVG = "http://www.w3.org/2000/svg";
const MONTH_S = 30 * 86400;

const $ = id => document.getElementById(id);

// What is shown is only ever text: names come from elsewhere.
function make(tag, options, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

function drawn(tag, options) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(options)) node.setAttribute(name, value);
  return node;
}

// ---- figures as text

function few(n) {
  if (n === 0) return "0";
  if (n < 0.01) return n.toPrecision(1);
  if (n < 10) return String(Math.round(n * 100) / 100);
  if (n < 100) return String(Math.round(n * 10) / 10);
  return Math.round(n).toLocaleString("en-US");
}

function bytes(n) {
  if (n === null || n === undefined) return "–";
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (n >= size) return few(n / size) + " " + unit;
  }
  return Math.round(n) + " B";
}

const rate = n => bytes(n) + "/s";
const perSecond = n => few(n) + "/s";

function ms(n) {
  if (n === null || n === undefined) return "–";
  return n >= 1000 ? few(n / 1000) + " s" : few(n) + " ms";
}

function span(milliseconds) {
  const s = Math.floor(milliseconds / 1000);
  if (s < 120) return s + " s";
  if (s < 7200) return Math.floor(s / 60) + " min";
  if (s < 172800) return Math.floor(s / 3600) + " h";
  return Math.floor(s / 86400) + " days";
}

function percent(part, whole) {
  return whole > 0 ? few(100 * part / whole) + " %" : "–";
}

// `most`: the largest amount of the column, since all its amounts have as many digits: two, or four of a sum below a dollar.
function money(n, most) {
  const digits = most >= 1 ? 2 : 4, least = 10 ** -digits;
  if (n > 0 && n < least) return "< $" + least.toFixed(digits);
  return "$" + n.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// ---- from two answers to what happened between them

const CLASSES = { get: "get", head: "get", delete: "free", multipart_abort: "free" };
const classOf = verb => CLASSES[verb] || "put";

// Counters only rise; one that fell began anew.
const risen = (now, was) => was === undefined || now < was ? now : now - was;

function lineOf(volume, verb) {
  return volume && volume.io.find(line => line.verb === verb);
}

function ioBetween(was, now, verb) {
  const line = lineOf(now, verb), old = lineOf(was, verb);
  const before = new Map(old && old.requests <= line.requests ? old.latency_counts : []);
  const counts = line.latency_counts.map(([upTo, n]) => [upTo, risen(n, before.get(upTo))]);
  return {
    requests: risen(line.requests, old && old.requests),
    bytes: risen(line.bytes, old && old.bytes),
    failed: risen(line.failed, old && old.failed),
    counts: counts.filter(([, n]) => n > 0),
  };
}

function percentile(counts, share) {
  const sum = counts.reduce((all, [, n]) => all + n, 0);
  let seen = 0;
  for (const [upTo, n] of counts.slice().sort((a, b) => a[0] - b[0])) {
    seen += n;
    if (seen >= sum * share) return upTo;
  }
  return null;
}

function volumesBetween(was, now, seconds) {
  const before = new Map(was.volumes.map(volume => [volume.path, volume]));
  return new Map(now.volumes.map(volume => {
    const io = {};
    for (const line of volume.io) io[line.verb] = ioBetween(before.get(volume.path), volume, line.verb);
    return [volume.path, { io, seconds }];
  }));
}

const storeKey = (pool, store) => pool.name + " " + store.url;

function requestsBetween(was, now) {
  const before = new Map();
  for (const pool of was.open_pools) for (const store of pool.stores) for (const line of store.traffic) {
    before.set([storeKey(pool, store), line.verb, line.cause].join(" "), line.requests);
  }
  const byCause = new Map(), byStore = new Map();
  for (const pool of now.open_pools) for (const store of pool.stores) for (const line of store.traffic) {
    const n = risen(line.requests, before.get([storeKey(pool, store), line.verb, line.cause].join(" ")));
    const of = byCause.get(line.cause) || { put: 0, get: 0, free: 0 };
    of[classOf(line.verb)] += n;
    byCause.set(line.cause, of);
    byStore.set(storeKey(pool, store), (byStore.get(storeKey(pool, store)) || 0) + n);
  }
  return { byCause, byStore };
}

function hits(status) {
  const disk = status.cache.disk || { hits: 0, misses: 0 };
  return { found: status.cache.memory.hits, missed: status.cache.memory.misses, disk: disk.hits };
}

// One point of the charts.
function between(was, now, at) {
  const seconds = (now.up_ms - was.up_ms) / 1000;
  const volumes = volumesBetween(was, now, seconds);
  const sum = (verbs, field) => {
    let all = 0;
    for (const { io } of volumes.values()) for (const verb of verbs) all += io[verb] ? io[verb][field] : 0;
    return all / seconds;
  };
  const p99 = verb => percentile([...volumes.values()].flatMap(({ io }) => io[verb] ? io[verb].counts : []), 0.99);
  const old = hits(was), cache = hits(now);
  const found = risen(cache.found, old.found), missed = risen(cache.missed, old.missed);
  const requests = requestsBetween(was, now);
  let asked = { put: 0, get: 0, free: 0 };
  for (const of of requests.byCause.values()) for (const name in asked) asked[name] += of[name] / seconds;
  const unsent = now.volumes.reduce((all, volume) => all + volume.unsent_bytes, 0);
  return {
    at, seconds, volumes, requests, asked, unsent,
    reads: sum(["read"], "requests"), writes: sum(["write", "zero"], "requests"), flushes: sum(["flush"], "requests"),
    readBytes: sum(["read"], "bytes"), writeBytes: sum(["write"], "bytes"),
    readMs: p99("read"), writeMs: p99("write"), flushMs: p99("flush"),
    memoryHits: found + missed > 0 ? 100 * found / (found + missed) : null,
    diskHits: now.cache.disk && missed > 0 ? 100 * Math.min(1, risen(cache.disk, old.disk) / missed) : null,
  };
}

// ---- charts

const CHARTS = [
  { title: "Requests of clients", unit: perSecond, lines: [["reads", "reads"], ["writes", "writes"], ["flushes", "flushes"]] },
  { title: "Bytes of clients", unit: rate, binary: true, lines: [["read", "readBytes"], ["written", "writeBytes"]] },
  { title: "Latency of clients, 99 % within", unit: ms, empty: "no requests yet", lines: [["read", "readMs"], ["write", "writeMs"], ["flush", "flushMs"]] },
  { title: "Unsent: lost if this host died now", unit: bytes, binary: true, lines: [["in journals and memory of this host alone", "unsent"]] },
  { title: "Found in the cache", unit: n => few(n) + " %", max: 100, empty: "nothing was looked for yet", lines: [["in memory", "memoryHits"], ["of the rest on disk", "diskHits"]] },
  { title: "Requests to stores", unit: perSecond, lines: [["gets", "get"], ["puts", "put"], ["deletes", "free"]], of: point => point.asked },
];

function ceiling(n, binary) {
  const unit = binary ? 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(n, 1)) / 10)) : 1;
  if (n <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(n / unit));
  return [1, 2, 5, 10].map(times => times * step * unit).find(top => top >= n) || 10 * step * unit;
}

function chart(spec) {
  const plot = drawn("svg", { viewBox: "0 0 300 90", preserveAspectRatio: "none", role: "img", "aria-label": spec.title });
  const top = make("span", { class: "muted small" }), legend = make("div", { class: "legend" });
  $("charts").append(make("div", { class: "card" }, make("h3", {}, spec.title), make("div", { class: "axis" }, top), plot, legend));
  return (points, now) => {
    const of = spec.of || (point => point);
    const values = spec.lines.map(([, field]) => points.map(point => of(point)[field]));
    const max = spec.max || ceiling(Math.max(0, ...values.flat().filter(value => value !== null)), spec.binary);
    const known = values.flat().some(value => value !== null);
    top.textContent = known ? "up to " + spec.unit(max) : spec.empty || "nothing yet";
    const x = point => 300 - 300 * (now - point.at) / KEPT_MS, y = value => 88 - 86 * Math.min(value, max) / max;
    const shapes = [2, 45, 88].map(at => drawn("line", { class: "grid", x1: 0, x2: 300, y1: at, y2: at }));
    values.forEach((line, which) => {
      let path = "", last = null;
      line.forEach((value, i) => {
        if (value === null) { last = null; return; }
        const joined = last !== null && points[i].at - last < 3 * EVERY_MS;
        const at = x(points[i]).toFixed(1) + " " + y(value).toFixed(1);
        path += joined ? "L" + at : "M" + at + "h0.01";
        last = points[i].at;
      });
      shapes.push(drawn("path", { class: "s" + (which + 1), d: path }));
    });
    plot.replaceChildren(...shapes);
    const latest = points.length ? of(points[points.length - 1]) : {};
    legend.replaceChildren(...spec.lines.map(([name, field], which) => {
      const value = latest[field] === undefined ? null : latest[field];
      return make("span", {}, make("span", { class: "key k" + (which + 1) }), name + " ", make("b", {}, value === null ? "–" : spec.unit(value)));
    }));
  };
}

// A store's parameters matter less than its place.
function place(url) {
  const [at, parameters] = url.split("?");
  return make("span", {}, at, parameters ? make("span", { class: "muted small" }, " " + parameters.split("&").join(" ")) : null);
}

// ---- tables; on a narrow screen each row is a card

function table(heads, rows, empty) {
  if (rows.length === 0) return make("p", { class: "muted" }, empty);
  const head = make("thead", {}, make("tr", {}, ...heads.map(([name, kind]) => make("th", { class: kind === "n" ? "n" : null }, name))));
  const body = rows.map(row => make("tr", {}, ...row.map((cell, i) => {
    const kind = heads[i][1];
    const look = (i === 0 ? "head" : kind === "n" ? "n" : "side") + (cell === "–" ? " none" : "");
    return make("td", { class: look, "data-label": heads[i][0] }, make("span", {}, cell));
  })));
  return make("table", {}, head, make("tbody", {}, ...body));
}

const COLORS = { in: "good", open: "good", idle: "good", released: "good", unknown: "muted", degraded: "warn", failing: "warn", closed: "warn" };

function state(word, reason, since) {
  const node = make("span", {}, make("span", { class: "strong " + (COLORS[word] || "bad") }, word), since || null);
  if (reason) node.append(" – " + reason);
  return node;
}

function filled(used, limit) {
  if (used === null || !limit) return make("span", {}, bytes(used));
  return make("span", { class: "whole" }, bytes(used) + " of " + bytes(limit), make("progress", { max: limit, value: Math.min(used, limit) }));
}

function volumesShown(status, recent) {
  const heads = [["Volume"], ["State"], ["Clients", "n"], ["Read", "n"], ["Written", "n"], ["Requests", "n"], ["99 % within", "n"], ["Failed", "n"],
    ["Unsent", "n"], ["Writes wait in", "n"], ["Journal"]];
  const rows = status.volumes.map(volume => {
    const sum = { read: 0, write: 0, requests: 0, failed: 0, counts: [], seconds: 0 };
    for (const point of recent) {
      const of = point.volumes.get(volume.path);
      if (!of) continue;
      sum.seconds += of.seconds;
      for (const [verb, line] of Object.entries(of.io)) {
        sum.requests += line.requests;
        sum.failed += line.failed;
        sum.counts.push(...line.counts);
        if (verb === "read") sum.read += line.bytes;
        if (verb === "write") sum.write += line.bytes;
      }
    }
    const each = n => sum.seconds > 0 ? n / sum.seconds : 0;
    const unsent = bytes(volume.unsent_bytes) + (volume.unsent_bytes > 0 && volume.unsent_age_ms !== null ? ", " + span(volume.unsent_age_ms) : "");
    return [each(sum.requests), [
      volume.path, state(volume.state, own(status, volume)), volume.clients, rate(each(sum.read)), rate(each(sum.write)), perSecond(each(sum.requests)),
      ms(percentile(sum.counts, 0.99)), few(sum.failed), unsent,
      volume.full_in_ms === null ? "–" : span(volume.full_in_ms), filled(volume.journal_bytes, volume.journal_size)]];
  });
  rows.sort((a, b) => b[0] - a[0]);
  const shown = rows.slice(0, ROWS_MAX).map(([, row]) => row);
  const more = rows.length - shown.length;
  const nodes = [table(heads, shown, "No client is connected, and no volume is open.")];
  if (more > 0) nodes.push(make("p", { class: "muted" }, more + " more, with less I/O, are not shown"));
  $("volumes").replaceChildren(...nodes);
}

function storesShown(status, recent) {
  const seconds = recent.reduce((all, point) => all + point.seconds, 0);
  const open = new Map(status.open_pools.map(pool => [pool.name, pool]));
  const heads = [["Store"], ["State"], ["Zone", "n"], ["99 % within", "n"], ["Failed lately", "n"], ["Requests", "n"], ["Used", "n"], ["Free", "n"]];
  const shown = status.pools.map(line => {
    const pool = open.get(line.name);
    const bar = make("div", { class: "bar" }, make("h3", {}, line.name), state(line.state, line.trouble));
    if (!pool) return make("div", { class: "pool" }, bar);
    const facts = [pool.layout, ...pool.survives];
    if (pool.pending_shards > 0) facts.push(pool.pending_shards.toLocaleString("en-US") + " shards wait for their stores");
    if (pool.damaged_shards > 0) facts.push(pool.damaged_shards.toLocaleString("en-US") + " shards are damaged: windlass pool repair " + pool.name);
    facts.push(...pool.replacing.map(pair => "being replaced: " + pair));
    const rows = pool.stores.map(store => {
      const asked = recent.reduce((all, point) => all + (point.requests.byStore.get(storeKey(pool, store)) || 0), 0);
      const since = store.failing_ms === null ? "" : " for " + span(store.failing_ms);
      return [place(store.url), state(store.state, store.reason && store.reason.replace("store " + store.url + " is " + store.state + ": ", ""), since), store.zone || "–", ms(store.latency_ms_p99), percent(store.error_rate, 1),
        seconds > 0 ? perSecond(asked / seconds) : "–", bytes(store.used_bytes), bytes(store.free_bytes)];
    });
    return make("div", { class: "pool" }, bar, make("p", { class: "muted small" }, facts.join(" · ")), table(heads, rows, "no stores"));
  });
  if (shown.length === 0) shown.push(make("p", { class: "muted" }, "This host knows no pool: windlass pool create makes one."));
  $("stores").replaceChildren(...shown);
}

const CAUSES = {
  read: "clients read", write: "clients write", hedge: "a store was slow, others were asked too", degraded: "a store was away or its bytes were bad",
  register: "who owns what, and changes of it", label: "whether a store is there, and the right one", walk: "listings by scrub, repair and sweeps",
  repair: "shards rebuilt", scrub: "shards verified", checkpoint: "maps of volumes", delete: "what nobody needs any more", probe: "what a new store can do",
  file: "mounted files",
};

function requestsShown(status, points) {
  const price = { put: Number($("price-put").value) / 1000, get: Number($("price-get").value) / 1000, free: 0 };
  const cost = of => of.put * price.put + of.get * price.get;
  const seconds = points.reduce((all, point) => all + point.seconds, 0);
  const window = new Map(), total = new Map();
  const add = (to, cause, kind, n) => {
    const of = to.get(cause) || { put: 0, get: 0, free: 0 };
    of[kind] += n;
    to.set(cause, of);
  };
  for (const point of points) for (const [cause, of] of point.requests.byCause) for (const kind in of) add(window, cause, kind, of[kind]);
  for (const pool of status.open_pools) for (const store of pool.stores) for (const line of store.traffic) {
    add(total, line.cause, classOf(line.verb), line.requests);
  }
  const none = { put: 0, get: 0, free: 0 };
  const each = n => seconds > 0 ? few(n * 3600 / seconds) : "–";
  const sum = of => [...of.values()].reduce((all, one) => ({ put: all.put + one.put, get: all.get + one.get, free: all.free + one.free }), none);
  const monthly = of => seconds > 0 ? cost(of) * MONTH_S / seconds : 0;
  const mostMonthly = monthly(sum(window)), most = cost(sum(total));
  const month = of => seconds > 0 ? money(monthly(of), mostMonthly) : "–";
  const row = (name, now, all) => [name, each(now.put), each(now.get), each(now.free), month(now), few(all.put + all.get + all.free), money(cost(all), most)];
  const causes = [...total.keys()].sort((a, b) => cost(window.get(b) || none) - cost(window.get(a) || none) || cost(total.get(b)) - cost(total.get(a)));
  const rows = causes.map(cause => row(make("span", {}, cause, make("span", { class: "muted small" }, CAUSES[cause] ? " – " + CAUSES[cause] : "")), window.get(cause) || none, total.get(cause)));
  if (rows.length > 1) rows.push(row(make("span", { class: "strong" }, "all"), sum(window), sum(total)));
  const heads = [["Cause"], ["Puts an hour", "n"], ["Gets an hour", "n"], ["Deletes an hour", "n"], ["30 days at this pace", "n"], ["Since the start", "n"], ["Their price", "n"]];
  $("requests").replaceChildren(table(heads, rows, "No pool is open."));
}

function memoryShown(status) {
  const tier = (name, held) => [name, filled(held.bytes, held.bytes_max), percent(held.hits, held.hits + held.misses), held.trouble ? make("span", { class: "bad" }, held.trouble) : held.on === false ? "off" : "–"];
  const rows = [tier("cache in memory", status.cache.memory)];
  if (status.cache.disk) rows.push(tier("cache on disk", status.cache.disk));
  for (const part of status.memory) rows.push(["memory for " + part.part, filled(part.bytes, part.limit_bytes), "–", part.short ? make("span", { class: "warn" }, "somebody waits for it") : "–"]);
  $("memory").replaceChildren(table([["Part"], ["In use"], ["Found since the start", "n"], ["Remark"]], rows, ""));
}

function mountsShown(status) {
  const rows = status.mounts.map(mount => [mount.dir, mount.url, mount.unsent_files, bytes(mount.unsent_bytes)]);
  $("mounts").replaceChildren(table([["Folder"], ["Bucket"], ["Files not stored yet", "n"], ["Their bytes", "n"]], rows, "The daemon has mounted nothing."));
}

// ---- what needs attention, and what guests see of it

// A volume's trouble without what its pool's says already.
function own(status, volume) {
  const pool = status.pools.find(line => volume.path.startsWith(line.name + "/"));
  if (!volume.trouble || !pool || !pool.trouble || !volume.trouble.startsWith(pool.trouble)) return volume.trouble;
  const rest = volume.trouble.slice(pool.trouble.length);
  return rest ? pool.trouble.split(":")[0] + rest : "as its pool";
}

function guests(status, line) {
  const of = status.volumes.filter(volume => volume.path.startsWith(line.name + "/") && volume.clients > 0 && !volume.trouble);
  return of.slice(0, NAMED_MAX).map(volume => {
    const room = volume.room_bytes === null ? "" : " there is room for " + bytes(volume.room_bytes) + " of writes on this host";
    const wait = volume.full_in_ms === null ? "" : ", which at this pace lasts for " + span(volume.full_in_ms);
    return volume.path + ": what clients read of it waits unless it is cached;" + (room || " writes wait") + wait + "; where a flush waits for the pool, it waits";
  });
}

// One sentence a reason, with all that it holds for.
function grouped(all) {
  const reasons = new Map();
  for (const [how, what, why] of all) {
    const of = reasons.get(why) || { how, whats: [] };
    if (how === "bad") of.how = "bad";
    of.whats.push(what);
    reasons.set(why, of);
  }
  return [...reasons].map(([why, { how, whats }]) => {
    const more = whats.length > NAMED_MAX ? " and " + (whats.length - NAMED_MAX) + " more" : "";
    return [how, whats.slice(0, NAMED_MAX).join(", ") + more + ": " + why];
  });
}

function alarms(status) {
  const why = [], all = [];
  for (const line of status.pools) {
    const worst = line.state === "degraded" || line.state === "open" ? "warn" : "bad";
    if (line.trouble) why.push([worst, "Pool " + line.name + " is " + line.state, line.trouble]);
    else if (line.state !== "open") all.push([worst, "Pool " + line.name + " is " + line.state]);
    if (line.state === "stalled" || line.state === "closed") for (const sentence of guests(status, line)) all.push(["warn", sentence]);
  }
  const told = status.pools.map(line => line.trouble || "").join("\n");
  for (const pool of status.open_pools) for (const store of pool.stores) {
    if (store.state !== "in" && store.state !== "unknown" && !told.includes(store.url)) all.push(["warn", "Store " + store.url.split("?")[0] + " is " + store.state + (store.failing_ms === null ? "" : " for " + span(store.failing_ms))]);
  }
  for (const volume of status.volumes) {
    if (volume.trouble) why.push(["bad", volume.path, own(status, volume)]);
    else if (volume.state === "degraded") why.push(["warn", volume.path, "writes are stored on fewer stores than usual"]);
  }
  for (const replica of status.replicas) if (replica.trouble) why.push(["warn", "Copy of " + replica.from, replica.trouble]);
  for (const mount of status.mounts) if (mount.trouble) why.push(["warn", "Mount " + mount.dir, mount.trouble]);
  for (const told of status.troubles || []) all.push(["warn", told.trouble]);
  if (status.cache.disk && status.cache.disk.trouble) all.push(["warn", status.cache.disk.trouble]);
  for (const kept of status.kept_files) all.push(["warn", kept.files + " files of " + kept.url + " could not be stored and are kept here: windlass mount list"]);
  for (const journal of status.kept_journals) all.push(["warn", "writes that are in no volume are kept in " + journal]);
  return [...grouped(why), ...all];
}

function alarmShown(all) {
  const worst = all.some(([how]) => how === "bad") ? "bad" : all.length > 0 ? "warn" : "";
  $("alarm").className = "alarm " + worst;
  const text = all.map(([, sentence]) => sentence).join("\n");
  // Written only when it changes, so that a screen reader says it once.
  if ($("alarm").dataset.text === text && $("alarm").hasChildNodes()) return;
  $("alarm").dataset.text = text;
  if (all.length === 0) return $("alarm").replaceChildren("All is well: every store answers, and clients wait for nothing.");
  $("alarm").replaceChildren(make("strong", { class: worst }, "Needs attention"), make("ul", {}, ...all.slice(0, ROWS_MAX).map(([how, sentence]) => make("li", {}, sentence))));
}

// ---- a map of a volume, on demand

const COLUMNS = 32;
const CELL = 10;
const NEXT_PART_MS = 300;
const KINDS = [["own_bytes", "m1", "its own"], ["shared_bytes", "m2", "shared with a snapshot or its origin"], ["gone_bytes", "m3", "freed since the snapshot, which still has it"]];

function cellDrawn(part, cell, number) {
  const x = CELL * (number % COLUMNS), y = CELL * Math.floor(number / COLUMNS);
  const from = number * part.cell_bytes, whole = Math.min(part.cell_bytes, part.size - from);
  const node = drawn("g", {});
  node.append(drawn("rect", { class: "m0", x: x + 0.5, y: y + 0.5, width: CELL - 1, height: CELL - 1 }));
  let bottom = y + CELL - 0.5;
  for (const [field, look] of KINDS) {
    // What is there is seen, however little it is.
    const height = cell[field] > 0 ? Math.max(1, (CELL - 1) * cell[field] / whole) : 0;
    const fits = Math.min(height, bottom - y - 0.5);
    if (fits <= 0) continue;
    bottom -= fits;
    node.append(drawn("rect", { class: look, x: x + 0.5, y: bottom, width: CELL - 1, height: fits }));
  }
  const told = drawn("title", {});
  const facts = KINDS.filter(([field]) => cell[field] > 0).map(([field, , name]) => bytes(cell[field]) + " " + name);
  told.textContent = "at " + bytes(from) + ", " + bytes(whole) + ": " + (facts.join(", ") || "holes") + (cell.guess ? ", by a sample" : "");
  node.append(told);
  return node;
}

function mapLegend(part, sums, seen) {
  const items = KINDS.map(([field, look, name]) => make("span", {}, make("span", { class: "swatch " + look }), name + " ", make("b", {}, bytes(sums[field]))));
  const holes = Math.max(0, seen - sums.own_bytes - sums.shared_bytes - sums.gone_bytes);
  items.push(make("span", {}, make("span", { class: "swatch m0" }), "holes ", make("b", {}, bytes(holes))));
  const since = part.snapshot ? "Compared to " + part.snapshot + ", the newest snapshot whose map is stored." : "It has no snapshot to be compared to.";
  const note = make("p", { class: "muted small" }, "Each field is " + bytes(part.cell_bytes) + " of the disk, in order from the left. " + since + (sums.guess ? " Of fields that are very torn a part was looked at." : ""));
  return make("div", {}, make("div", { class: "legend" }, ...items), note);
}

async function mapInto(place, path) {
  const sums = { own_bytes: 0, shared_bytes: 0, gone_bytes: 0, guess: false };
  const plot = drawn("svg", { class: "map", role: "img", "aria-label": "Map of " + path });
  const legend = make("div", {}), state = make("p", { class: "muted small", role: "status" }, "reading the maps…");
  place.replaceChildren(plot, legend, state);
  try {
    for (let from = 0, tries = 0; from !== null;) {
      let part;
      try {
        part = (await ask("api/map?volume=" + encodeURIComponent(path) + "&from=" + from)).value;
      } catch (error) {
        if (!error.message.includes("try again") || ++tries > 20) throw error;
        await new Promise(done => setTimeout(done, 1000));
        continue;
      }
      const count = Math.ceil(part.size / part.cell_bytes);
      plot.setAttribute("viewBox", "0 0 " + CELL * COLUMNS + " " + CELL * Math.ceil(count / COLUMNS));
      part.cells.forEach((cell, i) => {
        plot.append(cellDrawn(part, cell, part.from + i));
        for (const [field] of KINDS) sums[field] += cell[field];
        sums.guess = sums.guess || cell.guess;
      });
      const seen = Math.min(part.size, (part.from + part.cells.length) * part.cell_bytes);
      legend.replaceChildren(mapLegend(part, sums, seen));
      state.textContent = part.next === null ? "as of " + new Date().toLocaleTimeString() : percent(seen, part.size) + " read…";
      from = part.next;
      if (from !== null) await new Promise(done => setTimeout(done, NEXT_PART_MS));
      if (!place.isConnected) return;
    }
  } catch (error) {
    if (!plot.hasChildNodes()) plot.remove();
    state.className = "bad small";
    state.textContent = error.message;
  }
}

// ---- trees of volumes, on demand

async function ask(path) {
  const reply = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(6000) });
  const answer = await reply.json();
  if (!reply.ok) throw new Error(answer.error || reply.statusText);
  return answer;
}

async function snapshotsInto(place, path) {
  place.replaceChildren(make("span", { class: "muted small" }, "asking the stores…"));
  try {
    const answer = await ask("api/snapshots?volume=" + encodeURIComponent(path));
    const items = answer.value.map(snapshot => make("li", {}, make("span", { class: "strong" }, "@" + snapshot.name),
      make("span", { class: "muted small" }, " " + snapshot.created + ", " + bytes(snapshot.size) + (snapshot.frees_bytes === null ? "" : ", gives back " + bytes(snapshot.frees_bytes))
        + (snapshot.clones.length ? ", clones: " + snapshot.clones.join(", ") : "") + (snapshot.ready ? "" : ", not stored yet"))));
    place.replaceChildren(make("ul", {}, ...items));
  } catch (error) {
    place.replaceChildren(make("span", { class: "bad small" }, error.message));
  }
}

function leaf(volume) {
  if (!volume.id) return make("div", {}, volume.path + " ", state(volume.state, "its head could not be read"));
  const from = volume.origin ? ", clone of " + volume.origin : "";
  const facts = " " + bytes(volume.size) + ", " + bytes(volume.mapped_bytes) + " mapped, " + bytes(volume.stored_bytes) + " stored" + from + (volume.owner ? ", of host " + volume.owner : "");
  const node = make("div", {}, make("span", { class: "strong" }, volume.path), " ", state(volume.state, volume.trouble), make("span", { class: "muted small" }, facts), " ");
  const places = [];
  const opens = (words, into) => {
    const place = make("div", {}), button = make("button", { type: "button" }, words);
    button.addEventListener("click", () => into(place, volume.path));
    places.push(place);
    node.append(button, " ");
  };
  if (volume.snapshots > 0) opens(volume.snapshots + (volume.snapshots === 1 ? " snapshot" : " snapshots"), snapshotsInto);
  opens("map", mapInto);
  node.append(...places);
  return node;
}

function tree(volumes) {
  const items = new Map(volumes.map(volume => [volume.path, make("li", {}, leaf(volume))]));
  const roots = make("ul", { class: "tree" });
  for (const volume of volumes) {
    const parent = volume.origin && items.get(volume.origin.split("@")[0]);
    if (!parent || volume.origin.startsWith(volume.path + "@")) { roots.append(items.get(volume.path)); continue; }
    if (parent.lastElementChild.tagName !== "UL") parent.append(make("ul", {}));
    parent.lastElementChild.append(items.get(volume.path));
  }
  return roots;
}

const trees = new Map();

async function treeInto(place, pool) {
  place.replaceChildren(make("span", { class: "muted small" }, "asking the stores…"));
  try {
    const answer = await ask("api/volumes?pool=" + encodeURIComponent(pool));
    const notes = answer.notes.map(note => make("p", { class: "warn small" }, note));
    const shown = answer.value.length ? tree(answer.value) : make("p", { class: "muted" }, "no volumes");
    place.replaceChildren(shown, ...notes, make("p", { class: "muted small" }, "as of " + new Date().toLocaleTimeString()));
  } catch (error) {
    place.replaceChildren(make("p", { class: "bad" }, error.message));
  }
}

function treesShown(status) {
  const names = status.open_pools.map(pool => pool.name);
  for (const name of names) {
    if (trees.has(name)) continue;
    const place = make("div", {}), button = make("button", { type: "button" }, "show or refresh");
    button.addEventListener("click", () => treeInto(place, name));
    const node = make("div", { class: "card pool" }, make("div", { class: "bar" }, make("h3", {}, name), button), place);
    trees.set(name, node);
    $("trees").append(node);
  }
  for (const [name, node] of trees) {
    if (!names.includes(name)) { node.remove(); trees.delete(name); }
  }
}

// ---- the round

let last = null;
let lastAt = null;
let points = [];
const charts = CHARTS.map(chart);

function shown(status) {
  const recent = points.slice(-5);
  $("host").textContent = status.host + " · version " + status.version + " · up " + span(status.up_ms);
  document.title = "Windlass on " + status.host;
  alarmShown(alarms(status));
  volumesShown(status, recent);
  storesShown(status, recent);
  requestsShown(status, points);
  treesShown(status);
  memoryShown(status);
  mountsShown(status);
}

async function round() {
  const begun = Date.now();
  try {
    const status = (await ask("api/status")).value;
    const now = Date.now();
    if (last && status.up_ms > last.up_ms) points.push(between(last, status, now));
    if (last && status.up_ms < last.up_ms) points = [];
    points = points.filter(point => now - point.at < KEPT_MS);
    last = status;
    lastAt = now;
    shown(status);
    $("age").textContent = "as of " + new Date(now).toLocaleTimeString() + " · stores asked " + span(status.looked_ms_ago) + " ago";
    document.body.classList.remove("old");
  } catch (error) {
    const old = lastAt === null ? "nothing is known yet" : "what is below is " + span(Date.now() - lastAt) + " old";
    $("age").textContent = "no answer from the daemon; " + old;
    document.body.classList.add("old");
    alarmShown([["bad", "The daemon does not answer this page (" + error.message + "); " + (lastAt === null ? "nothing is known yet" : "what is below is as it was at " + new Date(lastAt).toLocaleTimeString())]]);
  }
  charts.forEach(update => update(points, Date.now()));
  setTimeout(round, Math.max(200, EVERY_MS - (Date.now() - begun)));
}

for (const id of ["price-put", "price-get"]) $(id).addEventListener("input", () => last && requestsShown(last, points));
round();
