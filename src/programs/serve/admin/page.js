// The page asks `status` every two seconds, and `hour` less often; it hears `events` as they happen.
// What it shows is text that it sets, never markup that it was sent.
const EVERY = 2000;
const HOUR_EVERY = 5;
const AGAIN = 5000;
const EVENTS_MAX = 500;
const ROWS_MAX = 200;
const $ = id => document.getElementById(id);
const make = (name, text, type) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (type) node.className = type;
  return node;
};
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const rate = value => value == null ? "-" : short.format(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));

function ago(seconds) {
  if (seconds == null) return "-";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.floor(seconds)} s`;
}

async function ask(path, signal) {
  const answer = await fetch(path, { cache: "no-store", headers: { accept: "application/json" }, signal });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error || `${answer.status} ${answer.statusText}`);
  return told;
}

// ---- tables: a column is [title, value, text, classes]; a click on the title sorts by value.

function sorted(table, columns, rows, by) {
  const order = table.order || (table.order = { column: by, down: true });
  const value = columns[order.column][1];
  const sign = order.down ? -1 : 1;
  rows.sort((a, b) => {
    const [x, y] = [value(a) ?? -1, value(b) ?? -1];
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
  return order;
}

let pressed = false;
document.addEventListener("pointerdown", () => pressed = true);
for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, () => pressed = false);

// Whether somebody is about to click in it, or has selected something to copy.
function isInUse(table) {
  const selection = getSelection();
  return pressed || !selection.isCollapsed && table.contains(selection.anchorNode);
}

function draw(table, columns, rows, by, again) {
  const order = sorted(table, columns, rows, by);
  const shown = JSON.stringify([order, rows.length, rows.slice(0, ROWS_MAX).map(row => columns.map(column => String(column[1](row)) + column[2](row)))]);
  if (shown === table.shown || isInUse(table)) return;
  table.shown = shown;
  const focused = document.activeElement?.dataset.key;
  const head = make("tr");
  columns.forEach(([title, , , type], column) => {
    const cell = make("th", undefined, type);
    cell.scope = "col";
    const button = make("button", title);
    button.dataset.key = `${table.id} ${title}`;
    if (order.column === column) cell.ariaSort = order.down ? "descending" : "ascending";
    button.onclick = () => {
      pressed = false;
      table.order = { column, down: order.column === column ? !order.down : true };
      again();
    };
    cell.append(button);
    head.append(cell);
  });
  const body = make("tbody");
  for (const row of rows.slice(0, ROWS_MAX)) {
    const line = make("tr");
    for (const [, , text, type] of columns) {
      const cell = make("td", undefined, type);
      const shown = text(row);
      cell.append(shown instanceof Node ? shown : String(shown));
      line.append(cell);
    }
    body.append(line);
  }
  const thead = make("thead");
  thead.append(head);
  table.replaceChildren(thead, body);
  // Who goes through the page with the keyboard stays where they are.
  if (focused) [...table.querySelectorAll("button")].find(button => button.dataset.key === focused)?.focus();
}

// ---- what is drawn of the last hour

function chart(svg, series, from, until) {
  const most = Math.max(1, ...series.flatMap(line => line.points.map(point => point[1])));
  const x = at => 360 * (at - from) / (until - from);
  const y = value => 98 - 94 * value / most;
  const shapes = [0.5, 1].map(part => shape("path", "grid", `M0 ${y(part * most)}H360`));
  for (const { points, type } of series) {
    if (!points.length) continue;
    const path = "M" + points.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
    if (type === "one") {
      const [first, last] = [points[0], points[points.length - 1]];
      shapes.push(shape("path", "area", `${path}L${x(last[0]).toFixed(1)} 98L${x(first[0]).toFixed(1)} 98Z`));
    }
    shapes.push(shape("path", type, path));
  }
  svg.replaceChildren(...shapes);
  return most;
}

function shape(name, type, path) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  node.setAttribute("class", type);
  node.setAttribute("d", path);
  return node;
}

function drawHour(hour, now) {
  const times = hour.times.map(time => Date.parse(time) / 1000);
  // Of a server that was started less than an hour ago, all there is.
  const until = now / 1000, from = Math.max(until - 3600, Math.min(times[0] ?? until, until - 60));
  for (const begin of document.querySelectorAll(".begin")) begin.textContent = `${ago(until - from)} ago`;
  const points = values => times.map((at, place) => [at, values[place]]);
  // There is no rate before the first sample.
  const rates = values => points(values).slice(1);
  const most = chart($("rates"), [{ points: rates(hour.requests), type: "one" }, { points: rates(hour.created), type: "two" }], from, until);
  $("rates-max").textContent = `at most ${rate(most)} a second`;
  const last = values => values[values.length - 1] ?? 0;
  $("rates").setAttribute("aria-label", `Requests and new clients a second since ${ago(until - from)} ago: at most ${rate(most)}, now ${rate(last(hour.requests))} and ${rate(last(hour.created))}`);
  const entries = chart($("occupancy"), [{ points: points(hour.entries), type: "one" }], from, until);
  $("occupancy-max").textContent = `at most ${short.format(entries)}`;
  $("occupancy").setAttribute("aria-label", `Entries since ${ago(until - from)} ago: at most ${short.format(entries)}, now ${short.format(last(hour.entries))}`);
}

// ---- what is asked again and again

const TABLES = [
  ["NAT64", table => table.nat64.split(".").map(part => part.padStart(3, "0")).join("."), table => one(table)],
  ["at", table => table.local, table => table.local, "optional"],
  ["Entries", table => table.entries.used, table => number.format(table.entries.used)],
  ["Full", table => table.entries.used / table.entries.max, table => `${number.format(100 * table.entries.used / table.entries.max)} %`],
  ["Live", table => table.live_connections, table => table.live_connections ?? "-", "optional"],
  ["Requests/s", table => table.requests.per_second, table => rate(table.requests.per_second)],
  ["New/s", table => table.created.per_second, table => rate(table.created.per_second), "optional"],
  ["Last seen", table => -table.last_seen_seconds, table => ago(table.last_seen_seconds)],
];
const DROPS = [
  ["Reason", drop => drop.reason, drop => drop.reason.replaceAll("_", " ")],
  ["Now/s", drop => drop.per_second, drop => rate(drop.per_second)],
  ["In all", drop => drop.total, drop => short.format(drop.total)],
  ["What it means, and what to do", drop => drop.advice, drop => drop.advice, "text"],
];
const ENTRIES = [
  ["Port", entry => entry.port, entry => entry.port],
  ["Client", entry => entry.client, entry => entry.client, "text"],
  ["Its port", entry => entry.client_port, entry => entry.client_port],
];

function one(table) {
  const button = make("button", table.nat64);
  button.dataset.key = `table ${table.nat64} ${table.local}`;
  button.onclick = () => open(table);
  return button;
}

let opened = 0;

async function open(table) {
  // An answer that comes when another table was opened is not this one's.
  const mine = ++opened;
  $("one-title").textContent = `${table.nat64} at ${table.local}`;
  $("one-more").textContent = "asking";
  $("one-table").replaceChildren();
  $("one").showModal();
  try {
    const report = await ask(`/tables/${table.nat64}`);
    if (mine !== opened) return;
    const entries = report.tables.find(each => each.local === table.local)?.entries ?? [];
    const again = () => draw($("one-table"), ENTRIES, entries, 0, again);
    $("one-table").order = { column: 0, down: false };
    again();
    $("one-more").textContent = entries.length > ROWS_MAX
      ? `${number.format(entries.length)} entries, of which ${ROWS_MAX} are shown: nat64handoff table ${table.nat64} has all`
      : `${number.format(entries.length)} entries`;
  } catch (error) {
    if (mine === opened) $("one-more").textContent = error.message;
  }
}

let status = null;
let looks = 0;

function drawTables() {
  const wanted = $("filter").value.trim();
  const rows = status.tables.filter(table => table.nat64.includes(wanted) || table.local.includes(wanted));
  draw($("tables"), TABLES, rows, 2, drawTables);
  const shown = Math.min(rows.length, ROWS_MAX);
  $("tables-more").textContent = status.tables_all === 0
    ? "No NAT64 is known yet: the first one that speaks handoff finds the server by itself."
    : shown < status.tables_all ? `${shown} of ${number.format(status.tables_all)} are shown` : "";
}

function drawDrops() {
  draw($("drops"), DROPS, [...status.drops], 1, drawDrops);
}

function fill(name, capacity) {
  $(name).textContent = short.format(capacity.used);
  $(`${name}-meter`).max = capacity.max || 1;
  $(`${name}-meter`).value = capacity.used;
  $(`${name}-max`).textContent = `of ${short.format(capacity.max)}`;
}

function tell(text, good) {
  // Said aloud by screen readers, so only when it changes.
  if ($("state").textContent === text) return;
  $("state").textContent = text;
  $("state").className = good ? "good" : "bad";
}

// How it does among the hosts that share its tables.
function drawFleet(fleet) {
  $("fleet").hidden = !fleet;
  if (!fleet) return;
  const told = [
    `cell ${fleet.cell}, host ${fleet.host}: owner of ${number.format(fleet.tables)} tables`,
    `${fleet.nodes_answering} of ${fleet.nodes} nodes of etcd answer`,
    `${number.format(fleet.behind_seconds)} s behind`,
  ];
  if (fleet.drains) told.push("gives its tables away");
  else if (!fleet.hears_others) told.push("hears no other host");
  $("fleet").textContent = told.join(", ");
}

async function look() {
  try {
    status = await ask("/status?tables=1000");
    const counted = status.counters;
    $("version").textContent = status.version;
    $("since").textContent = `since ${status.since.slice(0, 19).replace("T", " ")} UTC`;
    fill("nat64s", status.nat64s);
    fill("entries", status.entries);
    $("requests").textContent = rate(counted.datagrams?.per_second);
    $("created").textContent = rate(counted.created?.per_second);
    $("dropped").textContent = rate(status.drops.reduce((sum, drop) => sum + drop.per_second, 0));
    drawFleet(status.fleet);
    drawTables();
    drawDrops();
    if (looks++ % HOUR_EVERY === 0) drawHour(await ask("/hour"), Date.parse(status.time));
    tell(status.ready ? "serving" : `known clients alone are served: ${status.not_ready.join("; ")}`, status.ready);
  } catch (error) {
    tell(`no answer: ${error.message}; asking again`, false);
    looks = 0;
  }
  setTimeout(look, EVERY);
}

// ---- events

const kept = [];

function show(line) {
  const wanted = $("wanted").value.trim();
  return !wanted || line.includes(wanted);
}

let waiting = [];

function put() {
  const list = $("events");
  const nodes = waiting.filter(show).map(line => make("li", line)).reverse();
  waiting = [];
  list.prepend(...nodes);
  while (list.children.length > EVENTS_MAX) list.lastChild.remove();
}

function take(line) {
  kept.push(line);
  if (kept.length > EVENTS_MAX) kept.splice(0, kept.length - EVENTS_MAX);
  // Many lines in a moment are drawn at once.
  if (waiting.push(line) === 1) requestAnimationFrame(put);
  if (waiting.length > EVENTS_MAX) waiting.splice(0, waiting.length - EVENTS_MAX);
}

function listen() {
  const events = new EventSource("/events");
  events.onopen = () => {
    // The last lines come again.
    kept.length = waiting.length = 0;
    $("events").replaceChildren();
    $("events-state").textContent = "";
  };
  events.onmessage = event => event.data.split("\n").forEach(take);
  events.addEventListener("missed", event => take(`... ${event.data} lines came too fast to be shown; they are in the log`));
  events.onerror = () => {
    $("events-state").textContent = "not heard at the moment; trying again";
    // A refusal ends it for good: too many listen, or no server is there.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  };
}

$("wanted").oninput = () => {
  $("events").replaceChildren(...kept.filter(show).map(line => make("li", line)).reverse());
};

// ---- who was it

let asking = null;

$("ask").onsubmit = async event => {
  event.preventDefault();
  // The answer of an earlier question is nobody's any more, and the server need not look it up.
  asking?.abort();
  const mine = asking = new AbortController();
  const asked = new URLSearchParams({ about: $("who").value.trim(), at: $("at").value.trim() });
  const question = `${asked.get("about")}${asked.get("at") && `, ${asked.get("at")}`}: `;
  const answer = $("answer");
  answer.replaceChildren(make("p", `${question}looking it up`, "soft"));
  let lines;
  try {
    lines = (await ask(`/who?${asked}`, mine.signal)).text.trimEnd().split("\n");
  } catch (error) {
    lines = [error.message];
  }
  if (mine !== asking) return;
  answer.replaceChildren(make("p", question, "soft"), ...lines.map((line, at) => {
    const paragraph = make("p");
    paragraph.append(at === 0 ? make("b", line) : line);
    return paragraph;
  }));
};

document.addEventListener("keydown", event => {
  const typing = ["INPUT", "TEXTAREA"].includes(document.activeElement?.tagName);
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("who").focus();
  }
});
$("filter").oninput = () => status && drawTables();
listen();
look();
