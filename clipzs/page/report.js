(() => {
const data = JSON.parse($("data").textContent);

const printed = (score) => printedWith(score, data.decimals);

function unkept() {
  $("problem").textContent = "This browser keeps nothing for this page: download the review before you close it.";
  $("problem").hidden = false;
}

// ---- Images: columns by row.

const paths = data.images.path;
const N = paths.length;
const names = [...data.labels]; // grows with labels that are typed
const places = new Map(names.map((name, place) => [name, place]));
const truth = data.images.truth && Int32Array.from(data.images.truth);
const lowered = paths.map((path) => path.toLowerCase());
const nameOf = (label) => (label < 0 ? "" : visible(names[label]));
const fileOf = (row) => visible(
  paths[row].slice(Math.max(paths[row].lastIndexOf("/"), paths[row].lastIndexOf("\\")) + 1),
);
const HELD = 3, UNREADABLE = 4; // outcomes; 0 answered, 1 right, 2 wrong

function placed(name) {
  if (!places.has(name)) places.set(name, names.push(name) - 1);
  return places.get(name);
}

// What one configuration says, as typed arrays.
function derived(run) {
  const label = Int32Array.from(run.label), score = Float64Array.from(run.score, (one) => one ?? NaN);
  const top = label.slice(), sure = score.slice(), margin = new Float64Array(N).fill(NaN), outcome = new Uint8Array(N);
  const several = Object.keys(run.answers).length > 0;
  let low = Infinity, high = -Infinity;
  for (let row = 0; row < N; row++) {
    const kept = run.scores[row], right = truth ? truth[row] : -1;
    if (kept.length) {
      sure[row] = kept[1];
      // "unknown" with a score is one of the labels, and the answer to all that is held back
      if (label[row] !== data.unknown || Number.isNaN(score[row])) top[row] = kept[0];
    }
    if (kept.length > 3 && !several) margin[row] = kept[1] - kept[3];
    if (Number.isNaN(score[row]) && kept.length) score[row] = kept[1];
    const least = kept.length ? kept.at(-1) : score[row];
    if (least < low) low = least;
    if (score[row] > high) high = score[row];
    if (run.error[row] !== undefined) outcome[row] = UNREADABLE;
    else if (right >= 0) {
      if (label[row] === right || run.answers[row]?.includes(right)) outcome[row] = 1;
      else if (label[row] < 0 || label[row] === data.unknown || rolledUp(run, row)) outcome[row] = HELD;
      else outcome[row] = 2;
    }
  }
  const kind = data.facts.score;
  const shares = kind === "cosine" ? false : kind ? true : low >= 0 && high <= 1 && (high > 0.6 || high < low);
  const domain = shares ? [0, 1] : low <= high ? [Math.floor(low * 20) / 20, Math.ceil(high * 20 + 1e-9) / 20] : [0, 1];
  const wide = margin.reduce((most, one) => (one > most ? one : most), 0);
  const apart = shares ? 1 : Math.max(0.01, Math.ceil(wide * 100) / 100);
  return { ...run, label, score, top, sure, margin, outcome, several, shares, domain, apart, orders: {} };
}

// The answer is a group of labels, not one of them.
function rolledUp(run, row) {
  const groups = run.groups[row], kept = run.scores[row];
  if (!groups) return false;
  const within = (list) => list.some((one, place) => place % 2 === 0 && one === run.label[row]);
  return within(groups) && !within(kept);
}

const runs = data.runs.map(() => null);
const runAt = (place) => (runs[place] ??= derived(data.runs[place]));
let R = N ? runAt(0) : null;

const shownScore = (score) => (Number.isNaN(score) ? "" : R.shares ? `${Math.round(100 * score)} %` : score.toFixed(3));
const share = (score) => Math.max(0, Math.min(1, (score - R.domain[0]) / (R.domain[1] - R.domain[0])));

function escapedPath(path) {
  return bytes(path).map((chunk) => Array.from(chunk, (byte) => {
    const letter = String.fromCharCode(byte);
    return /[\w./~-]/.test(letter) ? letter : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }).join("")).join("");
}

const wholePath = (row) => data.root + paths[row];
function fileUrl(row) {
  const path = wholePath(row);
  if (!/^([a-z]:)?\\/i.test(path)) return "file://" + escapedPath(path);
  const drive = path.slice(0, 2) === "\\\\" ? "file:" : `file:///${path.slice(0, 2)}`;
  return drive + escapedPath(path.slice(drive === "file:" ? 0 : 2).replaceAll("\\", "/"));
}

function thumbUrl(row) {
  const { mode } = data.thumbs;
  if (mode === "inline") {
    const picture = data.thumbs.data[row];
    return picture && `data:${data.thumbs.type};base64,${picture}`;
  }
  if (mode === "none" || R.outcome[row] === UNREADABLE) return null;
  const folder = String(Math.floor(row / 1000)).padStart(3, "0"), file = String(row).padStart(6, "0");
  return `${escapedPath(data.thumbs.folder)}/${folder}/${file}${data.thumbs.suffix}`;
}

// ---- The review: kept in this browser under the report's id.

const KEY = `clipzs-review:${data.id}`;
const NEW = 0, ACCEPTED = 1, RELABELLED = 2, REJECTED = 3;
const STATES = ["Not reviewed", "Accepted", "Relabelled", "Rejected"], MARKS = ["", "accept", "relabel", "reject"];
const state = new Uint8Array(N), corrected = new Int32Array(N).fill(-1);
const undone = [];
let saving = 0;

// The label that a reviewed image has for good, whatever another configuration says of it.
const answerOf = (row) => (corrected[row] >= 0 ? corrected[row] : R.label[row]);
function tally() {
  const numbers = [0, 0, 0, 0];
  for (let row = 0; row < N; row++) numbers[state[row]] += 1;
  return numbers;
}

function load() {
  state.fill(NEW);
  corrected.fill(-1);
  try {
    const kept = JSON.parse(stored(KEY) ?? "{}"), known = (row) => Number.isInteger(row) && row >= 0 && row < N;
    for (const row of kept.rejected ?? []) if (known(row)) state[row] = REJECTED;
    for (const [to, lists] of [[ACCEPTED, kept.accepted], [RELABELLED, kept.relabelled]])
      for (const [label, rows] of lists ?? [])
        for (const row of rows) if (known(row)) { state[row] = to; corrected[row] = placed(label); }
  } catch { /* what is there is none of ours */ }
}

function forgetSaving() {
  clearTimeout(saving);
  saving = 0;
}

function keep() {
  forgetSaving();
  const lists = { [ACCEPTED]: new Map(), [RELABELLED]: new Map() }, rejected = [];
  for (let row = 0; row < N; row++) {
    if (state[row] === REJECTED) rejected.push(row);
    if (corrected[row] < 0) continue;
    const list = lists[state[row]], label = names[corrected[row]];
    if (!list.has(label)) list.set(label, []);
    list.get(label).push(row);
  }
  stored(KEY, JSON.stringify({ accepted: [...lists[ACCEPTED]], relabelled: [...lists[RELABELLED]], rejected }), unkept);
}

function changed() {
  const reviewed = N - tally()[NEW];
  $("reviewed").textContent = `${count(reviewed)} of ${count(N)} reviewed`;
  $("reviewed-bar").max = N || 1;
  $("reviewed-bar").value = reviewed;
  saving ||= setTimeout(keep, 200);
  refreshed();
}

function review(rows, to, label = -1) {
  const fitting = to === ACCEPTED ? rows.filter((row) => R.label[row] >= 0) : rows;
  if (!fitting.length) {
    if (rows.length) say("There is no answer to accept");
    return false;
  }
  undone.push(fitting.map((row) => [row, state[row], corrected[row]]));
  for (const row of fitting) {
    const same = to === RELABELLED && R.label[row] === label && !R.several;
    state[row] = same ? ACCEPTED : to;
    corrected[row] = to === REJECTED ? -1 : to === ACCEPTED ? R.label[row] : label;
  }
  const what = fitting.length === 1 ? fileOf(fitting[0]) : images(fitting.length);
  say(`${STATES[to]}: ${what}${label >= 0 ? `, ${nameOf(label)}` : ""}`);
  changed();
  return true;
}

function undo() {
  const last = undone.pop();
  if (!last) return say("Nothing to undo");
  for (const [row, before, label] of last) { state[row] = before; corrected[row] = label; }
  say(`Undone: ${last.length === 1 ? fileOf(last[0][0]) : images(last.length)}`);
  changed();
  const place = shown.indexOf(last[0][0]);
  if (place < 0) return;
  if ($("large").open) enlarge(place);
  else if (last.length === 1) go(place);
}

// ---- What is shown: the state of the filters lives in the address.

const RANGES = { score: () => [R.score, R.domain], margin: () => [R.margin, [0, R.apart]] };
const STEPS = 100, BARS = 25;
const FACETS = [
  {
    key: "outcome", title: "Outcome", values: ["Answered", "Right", "Wrong", "No label given", "Unreadable"],
    of: () => R.outcome,
  },
  { key: "label", title: "Answer", of: () => R.label, more: () => R.answers },
  { key: "group", title: "Group", of: () => null, more: () => R.groups, step: 2 },
  { key: "review", title: "Review", values: STATES, of: () => state },
  { key: "truth", title: "Truth", of: () => truth },
  { key: "top", title: "Best label", of: () => R.top, hidden: true },
];
const SORTS = {
  unsure: "Most uncertain first", high: "Highest score first", low: "Lowest score first", label: "Answer", path: "Path",
  file: "As classified",
};
const START = {
  view: "", run: 0, text: "", sort: "unsure", score: null, margin: null, bin: -1, review: [], outcome: [], label: [],
  truth: [], group: [], top: [],
};
let at = { ...START }, shown = new Uint32Array(0);
const fails = new Uint16Array(N);
let bits = {}, facetCounts = {}, histograms = {};

function address() {
  const parts = new URLSearchParams();
  for (const [key, start] of Object.entries(START)) {
    const value = at[key];
    if (Array.isArray(start) ? value.length : value !== start && value !== null)
      parts.set(key, Array.isArray(value) ? value.join("_") : value);
  }
  return `#${parts}`;
}

// What does not fit this report, from the address of another, is left out.
function fromAddress() {
  const found = { ...START };
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    const numbers = text.split("_").map(Number), facet = FACETS.find((one) => one.key === key);
    const below = (end) => numbers.every((one) => Number.isInteger(one) && one >= 0 && one < end);
    if (key === "view") found.view = text === "evaluation" ? text : "";
    else if (key === "text") found.text = text;
    else if (key === "sort" && Object.hasOwn(SORTS, text)) found.sort = text;
    else if (key === "run" && below(data.runs.length)) found.run = numbers[0];
    else if (key === "bin" && below(BINS)) found.bin = numbers[0];
    else if (key in RANGES && numbers.length === 2 && numbers.every(Number.isFinite)) found[key] = numbers;
    else if (facet && below((facet.values ?? names).length)) found[key] = numbers;
  }
  return found;
}

function set(change, { quiet = false } = {}) {
  at = { ...at, ...change };
  const target = address();
  if (target !== (location.hash || "#"))
    try {
      history[quiet ? "replaceState" : "pushState"](null, "", target);
    } catch {
      location.hash = target;
    }
  apply();
}

const cleared = () => ({ ...START, view: at.view, run: at.run, sort: at.sort });

function orderBy(sort) {
  return (R.orders[sort] ??= (() => {
    const order = Uint32Array.from({ length: N }, (_, row) => row);
    if (sort === "file") return order;
    const by = new Float64Array(N);
    if (sort === "path") {
      const sorted = [...order].sort((a, b) => (lowered[a] < lowered[b] ? -1 : lowered[a] > lowered[b] ? 1 : a - b));
      return Uint32Array.from(sorted);
    }
    const rank = new Int32Array(names.length);
    if (sort === "label") {
      const sorted = [...names.keys()].sort((a, b) => names[a].localeCompare(names[b]));
      sorted.forEach((place, number) => { rank[place] = number; });
    }
    const margins = R.margin.some((one) => !Number.isNaN(one));
    for (let row = 0; row < N; row++) {
      const value = sort === "label" ? rank[R.label[row]] : sort === "unsure" && margins ? R.margin[row] : R.score[row];
      by[row] = value === undefined || Number.isNaN(value) ? Infinity : sort === "high" ? -value : value;
    }
    return order.sort((a, b) => (by[a] === by[b] ? a - b : by[a] - by[b]));
  })());
}

// One bit a row and filter that it fails: what fails one filter only is still in that one's counts.
function select() {
  fails.fill(0);
  bits = {};
  let bit = 1;
  const fail = (key, failing) => {
    for (let row = 0; row < N; row++) if (failing(row)) fails[row] |= bit;
    bits[key] = bit;
    bit <<= 1;
  };
  if (at.text) {
    const wanted = at.text.toLowerCase(), root = data.root.toLowerCase();
    const part = wanted.startsWith(root) ? wanted.slice(root.length) : wanted;
    fail("text", (row) => !lowered[row].includes(part));
  }
  for (const key of Object.keys(RANGES)) {
    if (!at[key]) continue;
    const [values] = RANGES[key](), [low, high] = at[key];
    fail(key, (row) => !(values[row] >= low - 1e-9 && values[row] <= high + 1e-9));
  }
  if (at.bin >= 0) fail("bin", (row) => binOf(row) !== at.bin);
  for (const facet of FACETS) {
    if (!at[facet.key].length) continue;
    const wanted = new Uint8Array(Math.max(names.length, 8)), values = facet.of(), more = facet.more?.() ?? {};
    for (const value of at[facet.key]) wanted[value] = 1;
    fail(facet.key, (row) => {
      if (more[row]) return !more[row].some((one, place) => place % (facet.step ?? 1) === 0 && wanted[one]);
      return !(values && values[row] >= 0 && wanted[values[row]]);
    });
  }
  let size = 0;
  const order = orderBy(at.sort), found = new Uint32Array(N);
  for (let place = 0; place < N; place++) if (fails[order[place]] === 0) found[size++] = order[place];
  shown = found.subarray(0, size);
  for (const facet of FACETS) if (!facet.hidden) facetCounts[facet.key] = counted(facet, ~(bits[facet.key] ?? 0));
  for (const key of Object.keys(RANGES)) histograms[key] = histogram(key, ~(bits[key] ?? 0));
}

function counted(facet, others) {
  const numbers = new Uint32Array(Math.max(names.length, 8)), values = facet.of(), more = facet.more?.() ?? {};
  for (let row = 0; row < N; row++) {
    if (fails[row] & others) continue;
    if (more[row]) more[row].forEach((one, place) => { if (place % (facet.step ?? 1) === 0) numbers[one] += 1; });
    else if (values && values[row] >= 0) numbers[values[row]] += 1;
  }
  return numbers;
}

function histogram(key, others) {
  const [values, [low, high]] = RANGES[key](), numbers = new Uint32Array(BARS);
  for (let row = 0; row < N; row++)
    if (!(fails[row] & others) && values[row] === values[row])
      numbers[Math.max(0, Math.min(BARS - 1, Math.floor(((values[row] - low) / (high - low)) * BARS)))] += 1;
  return numbers;
}

const BINS = 15; // of confidence, as `eval` has them
const binOf = (row) => (
  R.outcome[row] === UNREADABLE || !(R.sure[row] >= 0) ? -1 : Math.max(Math.ceil(R.sure[row] * BINS) - 1, 0)
);

function apply() {
  if (!N) return;
  if (runs[at.run] !== R) { R = runAt(at.run); facetLists(); }
  select();
  for (const facet of FACETS) facet.draw?.();
  for (const one of sliders) one.draw();
  if (document.activeElement !== $("text")) $("text").value = at.text;
  $("sort").value = at.sort;
  $("run").value = at.run;
  const evaluating = at.view === "evaluation" && truth !== null;
  $("images").hidden = evaluating;
  $("evaluation").hidden = !evaluating;
  $("to-images").setAttribute("aria-current", evaluating ? "false" : "page");
  $("to-evaluation").setAttribute("aria-current", evaluating ? "page" : "false");
  if (evaluating) drawEvaluation();
  $("count").textContent = `${count(shown.length)} of ${images(N)}`;
  $("show").textContent = `Show ${images(shown.length)}`;
  $("empty").hidden = shown.length > 0;
  $("select-all").hidden = !shown.length;
  $("stale").hidden = true;
  drawChips();
  pick(() => chosen.fill(0));
  anchor = focused = 0;
  if (!evaluating) {
    const above = grid.getBoundingClientRect().top - $("bar").offsetHeight;
    if (above < 0) window.scrollBy({ top: above, behavior: "instant" });
    layOut();
  }
}

// After a step of the review nothing moves; a line says that it would, and offers it.
function refreshed() {
  const before = shown;
  let moved = 0;
  if (at.review.length) for (const row of before) if (!at.review.includes(state[row])) moved += 1;
  const mine = FACETS.find(({ key }) => key === "review");
  facetCounts.review = counted(mine, ~(bits.review ?? 0));
  mine.draw?.();
  $("stale").hidden = !moved;
  const words = `${images(moved)} here ${moved === 1 ? "does" : "do"} not match the filter any more.`;
  $("stale").firstElementChild.textContent = words;
  for (const node of live.values()) fillRow(node);
  if ($("large").open) drawLarge();
}

function drawChips() {
  const chips = [];
  const chip = (text, change) => {
    const of = { class: "chip", "aria-label": `Remove the filter: ${text}`, onclick: () => set(change) };
    chips.push(el("button", of, el("span", { dir: "auto", text }), icon("reject")));
  };
  if (at.text) chip(`“${visible(at.text)}”`, { text: "" });
  for (const key of Object.keys(RANGES))
    if (at[key]) chip(`${key} ${at[key].map((one) => +one.toFixed(3)).join(" to ")}`, { [key]: null });
  if (at.bin >= 0) chip(`confidence ${percent(at.bin / BINS, 0)} to ${percent((at.bin + 1) / BINS, 0)}`, { bin: -1 });
  for (const { key, title, values } of FACETS)
    for (const one of at[key]) {
      const name = values ? values[one] : `${title.toLowerCase()}: ${nameOf(one)}`;
      chip(name, { [key]: at[key].filter((other) => other !== one) });
    }
  const clear = el("button", { id: "clear", class: "plain", text: "Clear filters", onclick: () => set(cleared()) });
  $("chips").replaceChildren(...chips, ...(chips.length ? [clear] : []));
  $("open-filters").toggleAttribute("data-on", chips.length > 0);
}

// ---- The side: lists of values with their counts, and ranges with their histograms.

const LISTED = 200, FEW = 12;
let sliders = [];

function facetLists() {
  const lists = FACETS.map((facet) => {
    facet.draw = null;
    if (facet.hidden || (facet.key === "truth" && !truth)) return null;
    const all = counted(facet, 0), always = facet.key === "review" ? STATES.length : 0;
    const values = [...all.keys()].filter((value) => all[value] || value < always);
    if (values.length < (facet.key === "outcome" ? 2 : 1)) return null;
    if (!facet.values) values.sort((a, b) => all[b] - all[a] || a - b);
    return facetList(facet, values);
  });
  sliders = Object.entries({ score: "Score", margin: "Margin" })
    .filter(([key]) => RANGES[key]()[0].some((value) => !Number.isNaN(value)))
    .map(([key, title]) => slider(key, title));
  lists.splice(3, 0, ...sliders.map((one) => one.node));
  $("facets").replaceChildren(...lists.filter(Boolean));
}

function facetList(facet, values) {
  const list = el("div", { class: "list" }), items = new Map();
  const nameFor = (value) => (facet.values ? facet.values[value] : nameOf(value));
  const find = values.length <= FEW ? null : el("input", {
    type: "search",
    "aria-label": `Find in ${facet.title}`,
    placeholder: `Find among ${count(values.length)}`,
    spellcheck: "false",
    autocomplete: "off",
  });
  const more = el("p", { class: "muted", hidden: true });
  const box = el("details", { class: "facet", open: facet.key !== "truth" },
    el("summary", { text: facet.title }), find, list, more);
  const item = (value) => {
    const others = () => at[facet.key].filter((one) => one !== value);
    const onchange = () => set({ [facet.key]: input.checked ? [...others(), value] : others() });
    const input = el("input", { type: "checkbox", onchange });
    const number = el("span", { class: "num" });
    const name = el("span", { class: "what", dir: "auto", title: nameFor(value), text: nameFor(value) });
    const node = el("label", { class: "check" }, input, name, number);
    return { input, number, node };
  };
  facet.draw = () => {
    const wanted = (find?.value ?? "").toLowerCase(), counts = facetCounts[facet.key];
    const fits = (value) => at[facet.key].includes(value) || nameFor(value).toLowerCase().includes(wanted);
    const fitting = values.filter(fits);
    const some = fitting.slice(0, LISTED), most = some.reduce((high, value) => Math.max(high, counts[value]), 1);
    for (const value of some) {
      if (!items.has(value)) items.set(value, item(value));
      const { input, number, node } = items.get(value);
      input.checked = at[facet.key].includes(value);
      number.textContent = count(counts[value]);
      node.classList.toggle("zero", counts[value] === 0);
      node.style.setProperty("--share", counts[value] / most);
    }
    const nodes = some.map((value) => items.get(value).node);
    const same = nodes.length === list.children.length && nodes.every((node, place) => node === list.children[place]);
    if (!same) list.replaceChildren(...nodes);
    more.hidden = some.length === fitting.length;
    more.textContent = `and ${count(fitting.length - some.length)} more: type to find them`;
  };
  find?.addEventListener("input", facet.draw);
  return box;
}

function slider(key, title) {
  const [, [low, high]] = RANGES[key]();
  const valueAt = (step) => low + ((high - low) * step) / STEPS;
  const stepAt = (value) => Math.round(((value - low) / (high - low)) * STEPS);
  const bars = Array.from({ length: BARS }, () => el("i"));
  const knob = (end) => el("input", { type: "range", min: 0, max: STEPS, "aria-label": `${title}, ${end}` });
  const inputs = [knob("least"), knob("most")];
  const words = el("output", { class: "num" });
  const moved = (which) => {
    const ends = inputs.map((input) => Number(input.value));
    if (ends[0] > ends[1]) ends[1 - which] = ends[which];
    const whole = ends[0] === 0 && ends[1] === STEPS;
    set({ [key]: whole ? null : ends.map((step) => +valueAt(step).toFixed(4)) }, { quiet: true });
  };
  inputs.forEach((input, which) => input.addEventListener("input", () => moved(which)));
  const chart = el("div", { class: "histogram", role: "img" }, ...bars);
  const draw = () => {
    const numbers = histograms[key], most = Math.max(1, ...numbers), ends = at[key] ?? [low, high];
    bars.forEach((bar, place) => {
      bar.style.height = numbers[place] ? `${Math.max(4, (100 * numbers[place]) / most)}%` : "0";
      const middle = low + ((high - low) * (place + 0.5)) / BARS;
      bar.classList.toggle("in", middle >= ends[0] && middle <= ends[1]);
    });
    const highest = numbers.indexOf(Math.max(...numbers));
    const edge = (bar) => (low + ((high - low) * bar) / BARS).toFixed(2);
    const where = `from ${edge(highest)} to ${edge(highest + 1)}`;
    chart.setAttribute("aria-label", `${title} of the images: most of them, ${count(numbers[highest])}, ${where}`);
    inputs.forEach((input, which) => {
      input.value = stepAt(ends[which]);
      input.setAttribute("aria-valuetext", ends[which].toFixed(2));
    });
    // of two knobs in one place, the one that can move lies above
    inputs[0].style.zIndex = stepAt(ends[0]) > STEPS / 2 ? 2 : "";
    words.textContent = `${ends[0].toFixed(2)} to ${ends[1].toFixed(2)}`;
  };
  const meaning = key === "margin" ? "The best score minus the second" : "Of the answer";
  const name = el("span", { text: title, title: meaning });
  const node = el("div", { class: "facet range", role: "group", "aria-label": title },
    el("div", { class: "range-head" }, name, words), chart, el("div", { class: "double" }, ...inputs));
  return { node, draw };
}

// ---- The grid: rows of tiles, of which only those on the screen exist.

const grid = $("grid"), live = new Map(), spare = [];
const GAP = 12, OVER = 2;
let columns = 1, rowHeight = 200, tile = Number(stored("clipzs-size")) || 0, focused = 0, anchor = 0;
const chosen = new Uint8Array(N);
let chosenCount = 0;
const quick = el("div", { class: "quick" }, ...["Accept", "Relabel", "Reject"].map((title) => {
  const act = title.toLowerCase();
  return el("button", { "data-act": act, tabindex: "-1", "aria-label": title, title }, icon(act));
}));

function layOut() {
  const width = grid.clientWidth;
  if (!width) return;
  const size = Math.min(tile || (width < 560 ? 150 : 180), width);
  const across = Math.max(1, Math.floor((width + GAP) / (size + GAP)));
  const side = (width - GAP * (across - 1)) / across;
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  if (across !== columns) { live.forEach((node) => node.remove()); live.clear(); spare.length = 0; }
  columns = across;
  rowHeight = Math.round(side + 3.9 * rem + GAP);
  grid.style.setProperty("--columns", columns);
  grid.style.setProperty("--side", `${side}px`);
  grid.style.setProperty("--row", `${rowHeight - GAP}px`);
  grid.style.height = `${Math.ceil(shown.length / columns) * rowHeight}px`;
  grid.setAttribute("aria-rowcount", Math.ceil(shown.length / columns));
  grid.setAttribute("aria-colcount", columns);
  $("size").value = size;
  for (const [number, node] of live) { node.dataset.row = number; place(node); fillRow(node); }
  draw();
}

const place = (node) => { node.style.transform = `translateY(${node.dataset.row * rowHeight}px)`; };

function draw() {
  const rows = Math.ceil(shown.length / columns), top = -grid.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / rowHeight) - OVER);
  const last = Math.min(rows, Math.ceil((top + innerHeight) / rowHeight) + OVER);
  const pinned = Math.floor(focused / columns); // it may hold the focus, which would be lost with it
  for (const [number, node] of live)
    if ((number < first || number >= last) && (number !== pinned || number >= rows)) {
      live.delete(number);
      node.remove();
      spare.push(node);
    }
  let after = pinned >= last ? live.get(pinned) ?? null : null;
  for (let number = last - 1; number >= first; number--) {
    let node = live.get(number);
    if (!node) {
      node = spare.pop() ?? newRow();
      node.dataset.row = number;
      live.set(number, node);
      place(node);
      fillRow(node);
    }
    if (node.parentNode !== grid || node.nextSibling !== after) grid.insertBefore(node, after);
    after = node;
  }
  spare.length = Math.min(spare.length, 8);
}

function newRow() {
  return el("div", { role: "row", class: "row" }, ...Array.from({ length: columns }, newTile));
}

function newTile() {
  const node = el("div", { role: "gridcell", class: "tile" },
    el("div", { class: "pic" },
      el("img", { alt: "", decoding: "async", draggable: "false" }),
      el("span", { class: "none" }),
      el("span", { class: "mark" }),
      el("span", { class: "pick" }, icon("accept")),
      el("span", { class: "wrong", dir: "auto" })),
    el("div", { class: "line" }, el("span", { class: "answer", dir: "auto" }), el("span", { class: "num" })),
    el("div", { class: "meter" }, el("i")),
    el("div", { class: "name", dir: "ltr" }));
  const [pic, line, meter, name] = node.children, [img, none, mark, , wrong] = pic.children;
  const [answer, num] = line.children;
  node.parts = { pic, img, none, mark, wrong, answer, num, bar: meter.firstChild, name };
  img.addEventListener("load", () => img.classList.add("there"));
  img.addEventListener("error", () => { img.classList.remove("there"); none.textContent = "no picture"; });
  return node;
}

function fillRow(node) {
  const number = Number(node.dataset.row);
  node.setAttribute("aria-rowindex", number + 1);
  [...node.children].forEach((cell, column) => {
    const position = number * columns + column;
    cell.hidden = position >= shown.length;
    if (!cell.hidden) fillTile(cell, position, column);
  });
}

function fillTile(cell, position, column) {
  const row = shown[position], { img, none, mark, wrong, answer, num, bar, name } = cell.parts;
  const error = R.error[row], outcome = R.outcome[row], is = state[row], url = thumbUrl(row);
  cell.dataset.position = position;
  cell.tabIndex = position === focused ? 0 : -1;
  cell.setAttribute("aria-colindex", column + 1);
  cell.setAttribute("aria-selected", chosen[row] === 1);
  cell.setAttribute("aria-label", described(row));
  if (cell.shows !== url) {
    cell.shows = url;
    img.classList.remove("there");
    if (url) img.src = url;
    else img.removeAttribute("src");
    none.textContent = error !== undefined ? visible(error) : url ? "" : "no picture";
    none.classList.toggle("error", error !== undefined);
  }
  if (error !== undefined) none.textContent = visible(error);
  if (mark.dataset.is !== String(is)) { mark.dataset.is = is; mark.replaceChildren(...(is ? [icon(MARKS[is])] : [])); }
  const truthNow = truth && truth[row] >= 0 ? truth[row] : -1;
  wrong.textContent = outcome === 2 ? `✕ truth: ${nameOf(truthNow)}` : "";
  const other = answerOf(row) !== R.label[row] && R.label[row] >= 0;
  const before = other ? [el("s", { text: nameOf(R.label[row]) }), " "] : [];
  const unread = error === undefined ? answersText(row) : "unreadable";
  answer.replaceChildren(...before, corrected[row] < 0 ? unread : nameOf(corrected[row]));
  answer.title = described(row);
  answer.classList.toggle("none", answerOf(row) < 0 || answerOf(row) === data.unknown);
  num.textContent = shownScore(R.score[row]);
  bar.style.transform = `scaleX(${Number.isNaN(R.score[row]) ? 0 : share(R.score[row])})`;
  name.textContent = fileOf(row);
  cell.classList.toggle("rejected", is === REJECTED);
}

function answersText(row) {
  const several = R.answers[row];
  return several ? several.map(nameOf).join(", ") : nameOf(R.label[row]) || "no answer";
}

function described(row) {
  const parts = [fileOf(row)];
  if (R.error[row] !== undefined) parts.push(`unreadable: ${visible(R.error[row])}`);
  else parts.push(`${answersText(row)} ${shownScore(R.score[row])}`.trim());
  if (R.outcome[row] === 1) parts.push("right");
  if (R.outcome[row] === 2) parts.push(`wrong, truth: ${nameOf(truth[row])}`);
  if (state[row]) parts.push(reviewText(row).toLowerCase());
  return parts.join(", ");
}

function reviewText(row) {
  return STATES[state[row]] + (state[row] === RELABELLED ? ` to ${nameOf(corrected[row])}` : "");
}

// Bring a tile into view and, unless told otherwise, focus it.
function go(position, { focus = true } = {}) {
  if (!shown.length) return;
  const before = focused;
  focused = Math.max(0, Math.min(shown.length - 1, position));
  const number = Math.floor(focused / columns), top = grid.getBoundingClientRect().top + number * rowHeight;
  const ceiling = $("bar").offsetHeight + 4, floor = innerHeight - $("selection").offsetHeight - 4; // 0 where hidden
  const down = top < ceiling ? top - ceiling : Math.max(0, Math.min(top - ceiling, top + rowHeight - floor));
  if (down) window.scrollBy({ top: down, behavior: "instant" });
  draw();
  for (const one of [before, focused]) {
    const cell = cellAt(one);
    if (cell) cell.tabIndex = one === focused ? 0 : -1;
  }
  if (focus) cellAt(focused)?.focus({ preventScroll: true });
}

const cellAt = (position) => live.get(Math.floor(position / columns))?.children[position % columns];

function pick(change) {
  change();
  chosenCount = chosen.reduce((sum, one) => sum + one, 0);
  $("selection").hidden = !chosenCount;
  $("selected").textContent = `${count(chosenCount)} selected`;
  grid.classList.toggle("picking", chosenCount > 0);
  for (const node of live.values())
    for (const cell of node.children)
      if (!cell.hidden) cell.setAttribute("aria-selected", chosen[shown[cell.dataset.position]] === 1);
}

function pickRange(to) {
  pick(() => {
    chosen.fill(0);
    for (let position = Math.min(anchor, to); position <= Math.max(anchor, to); position++) chosen[shown[position]] = 1;
  });
}

function pickOne(position) {
  anchor = position;
  pick(() => { chosen[shown[position]] ^= 1; });
}

const pickAll = () => pick(() => { for (const row of shown) chosen[row] = 1; });

// The rows that a step of the review is for: the selected ones, or the one in focus.
function targets(position = focused) {
  if ($("large").open) return [shown[large]];
  if (chosenCount) return Array.from(shown).filter((row) => chosen[row]);
  return shown.length ? [shown[position]] : [];
}

function act(what, position = focused) {
  if (what === "undo") return undo();
  const rows = targets(position);
  if (!rows.length) return undefined;
  if (what === "relabel") return chooseLabel(rows, position);
  return done(review(rows, what === "accept" ? ACCEPTED : REJECTED), position);
}

// After a step: on to the next image.
function done(reviewed, position) {
  if (!reviewed) return;
  if ($("large").open) enlarge(Math.min(large + 1, shown.length - 1));
  else if (chosenCount) pick(() => chosen.fill(0));
  else go(position + 1);
}

grid.addEventListener("click", (event) => {
  const cell = event.target.closest(".tile");
  if (!cell) return;
  const position = Number(cell.dataset.position), button = event.target.closest("[data-act]");
  if (button) {
    if (!chosen[shown[position]]) pick(() => chosen.fill(0));
    act(button.dataset.act, position);
  } else if (event.shiftKey) { go(position); pickRange(position); }
  else if (event.ctrlKey || event.metaKey || event.target.closest(".pick")) { go(position); pickOne(position); }
  else { go(position); enlarge(position); }
});
grid.addEventListener("mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
grid.addEventListener("pointerover", (event) => {
  const pic = event.pointerType === "mouse" ? event.target.closest(".tile")?.parts.pic : null;
  if (pic && quick.parentNode !== pic) pic.append(quick); // moved under the pointer, it would lose the click
});

// ---- The larger view.

let large = 0;
function enlarge(position) {
  if (!shown.length) return;
  large = Math.max(0, Math.min(shown.length - 1, position));
  drawLarge();
  if (!$("large").open) { $("large").showModal(); $("next").focus(); }
}

function drawLarge() {
  const row = shown[large], image = $("large-image"), thumb = thumbUrl(row), url = fileUrl(row);
  if (image.dataset.url !== url) {
    image.dataset.url = url;
    image.alt = fileOf(row);
    $("large-note").textContent = "";
    const original = new Image();
    const current = () => image.dataset.url === url;
    original.onload = () => {
      if (current()) image.src = url;
      if (large + 1 < shown.length) new Image().src = fileUrl(shown[large + 1]);
    };
    original.onerror = () => {
      const shownNow = thumb ? "the file itself; this is its thumbnail." : "the file.";
      if (current()) $("large-note").textContent = `The browser cannot show ${shownNow}`;
    };
    if (thumb) image.src = thumb;
    else image.removeAttribute("src");
    original.src = url;
  }
  $("large-name").textContent = fileOf(row);
  $("large-path").textContent = visible(wholePath(row));
  $("original").href = url;
  $("place").textContent = `${count(large + 1)} of ${count(shown.length)}`;
  $("previous").disabled = large === 0;
  $("next").disabled = large === shown.length - 1;
  const facts = [], fact = (key, ...value) => {
    facts.push(el("div", {}, el("dt", { text: key }), el("dd", { dir: "auto" }, ...value)));
  };
  const verdict = { 1: "✓ right", 2: "✕ wrong", [HELD]: "no label given" }[R.outcome[row]];
  const scored = Number.isNaN(R.score[row]) ? "" : ` ${printed(R.score[row])}`;
  if (R.error[row] !== undefined) fact("Unreadable", visible(R.error[row]));
  else fact("Answer", el("strong", { text: answersText(row) }), scored);
  const judged = verdict ? el("span", { class: `verdict v${R.outcome[row]}`, text: verdict }) : "";
  if (truth && truth[row] >= 0) fact("Truth", nameOf(truth[row]), judged);
  const is = state[row];
  if (is) fact("Review", el("span", { class: `state s${is}` }, icon(MARKS[is]), reviewText(row)));
  if (!Number.isNaN(R.margin[row])) fact("Margin", printed(R.margin[row]));
  fact("Model", visible(R.model || "not recorded"));
  if (R.config) fact("Config", el("code", { text: visible(R.config) }));
  $("large-facts").replaceChildren(
    el("dl", {}, ...facts), ...scoreBars("Best scores", R.scores[row], row), ...scoreBars("Groups", R.groups[row], row),
  );
}

function scoreBars(title, list, row) {
  if (!list?.length) return [];
  const items = pairs(list).map(([label, score]) => {
    const bar = el("i");
    bar.style.width = `${100 * share(score)}%`;
    return el("li", { class: label === R.label[row] ? "is" : "" },
      el("span", { class: "what", dir: "auto", text: nameOf(label) }),
      el("span", { class: "num", text: printed(score) }),
      el("span", { class: "track" }, bar));
  });
  return [el("h3", { text: title }), el("ul", { class: "scores" }, ...items)];
}

function pairs(flat) {
  return Array.from({ length: flat.length / 2 }, (_, place) => [flat[2 * place], flat[2 * place + 1]]);
}

$("large").addEventListener("close", () => go(large));
$("previous").addEventListener("click", () => enlarge(large - 1));
$("next").addEventListener("click", () => enlarge(large + 1));
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(wholePath(shown[large]));
    say("Path copied");
  } catch {
    getSelection().selectAllChildren($("large-path"));
    say("Selected: copy it with Ctrl+C");
  }
});

// ---- Relabelling: a list of labels that typing narrows down.

let options = [], active = 0, relabelling = null;
const candidates = (() => {
  let found = null;
  return () => {
    if (found) return found;
    const uses = new Uint32Array(names.length), labels = new Set();
    for (const run of data.runs) for (let row = 0; row < N; row++) {
      const kept = run.scores[row];
      for (let place = 0; place < kept.length; place += 2) { labels.add(kept[place]); uses[kept[place]] += 1; }
      if (run.label[row] >= 0 && !rolledUp(run, row)) labels.add(run.label[row]);
    }
    for (const label of truth ?? []) if (label >= 0) labels.add(label);
    for (let label = 0; label < data.choices; label++) labels.add(label);
    return (found = [...labels].sort((a, b) => uses[b] - uses[a]));
  };
})();

function chooseLabel(rows, position) {
  relabelling = { rows, position };
  $("relabel-title").textContent = rows.length === 1 ? `Relabel ${fileOf(rows[0])}` : `Relabel ${images(rows.length)}`;
  $("relabel-text").value = "";
  offer();
  $("relabel").showModal();
  $("relabel-text").focus();
}

function offer() {
  const { rows } = relabelling, typed = $("relabel-text").value.trim(), wanted = typed.toLowerCase();
  const own = rows.length === 1 ? pairs(R.scores[rows[0]]) : [], scored = new Map(own);
  const typedBefore = corrected.filter((label) => label >= data.labels.length);
  const all = [...new Set([...own.map(([label]) => label), ...candidates(), ...typedBefore])];
  const fitting = all.filter((label) => names[label].toLowerCase().includes(wanted));
  const starts = (label) => names[label].toLowerCase().startsWith(wanted);
  if (wanted) fitting.sort((a, b) => starts(b) - starts(a));
  options = fitting.slice(0, 50).map((label) => ({ label, text: nameOf(label), score: scored.get(label) }));
  const isNew = typed && !all.some((label) => names[label] === typed);
  if (isNew) options.push({ label: -1, name: typed, text: `New label: ${visible(typed)}` });
  const exact = options.findIndex(({ label }) => label >= 0 && names[label].toLowerCase() === wanted);
  active = wanted ? Math.max(0, exact) : own.length > 1 && own[0][0] === R.label[rows[0]] ? 1 : 0;
  $("relabel-list").replaceChildren(...options.map(({ label, text, score }, place) =>
    el("li",
      { role: "option", id: `option-${place}`, class: label < 0 ? "new" : "", onclick: () => relabel(place) },
      el("span", { class: "what", dir: "auto", text }),
      el("span", { class: "num", text: score === undefined ? "" : printed(score) }))));
  point(active);
}

function point(to) {
  active = Math.max(0, Math.min(options.length - 1, to));
  [...$("relabel-list").children].forEach((node, place) => node.setAttribute("aria-selected", place === active));
  $("relabel-text").setAttribute("aria-activedescendant", options.length ? `option-${active}` : "");
  $("relabel-list").children[active]?.scrollIntoView({ block: "nearest" });
}

function relabel(place) {
  const option = options[place], { rows, position } = relabelling;
  if (!option) return;
  $("relabel").close();
  done(review(rows, RELABELLED, option.label < 0 ? placed(option.name) : option.label), position);
}

$("relabel-text").addEventListener("input", offer);
$("relabel-text").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
  if (step) point(active + step);
  else if (event.key === "Enter" && !event.isComposing) relabel(active);
  else return;
  event.preventDefault();
});

// ---- The evaluation: figures, the confusion matrix, calibration. What opens pictures is a button.

const FIGURES = {
  top1: "Top-1 accuracy",
  top5: "Top-5 accuracy",
  mean_recall: "Mean recall per class",
  ece: "Calibration error (ECE)",
  nll: "Negative log-likelihood",
  answered: "Answered",
  top1_answered: "Of these, right",
};
const WHOLE = 40, PART = 20; // classes of a matrix that is shown whole; of one that is not
const LISTED_PAIRS = 10, LISTED_MORE = 30; // confused pairs beside a whole matrix, and beside a part
let evaluated = null;

const shownFigure = (name, value) => (value == null ? "" : name === "nll" ? value.toFixed(3) : percent(value));
function interval(name, { low, high } = {}) {
  return low == null ? "" : `${shownFigure(name, low).replace(" %", "")} to ${shownFigure(name, high)}`;
}

// Without figures from `eval` what can be counted here: no intervals.
function counting() {
  const known = (row) => truth[row] >= 0 && R.top[row] >= 0 && R.outcome[row] !== UNREADABLE;
  const rows = [...truth.keys()].filter(known);
  const used = [...new Set(rows.flatMap((row) => [truth[row], R.top[row]]))].sort((a, b) => a - b);
  const where = new Map(used.map((label, place) => [label, place]));
  const counts = used.map(() => used.map(() => 0));
  const bins = Array.from({ length: BINS }, () => ({ images: 0, sum: 0, right: 0 }));
  for (const row of rows) {
    counts[where.get(truth[row])][where.get(R.top[row])] += 1;
    const bin = R.shares && bins[binOf(row)];
    if (bin) { bin.images += 1; bin.sum += R.sure[row]; bin.right += truth[row] === R.top[row]; }
  }
  const sum = (list) => list.reduce((all, one) => all + one, 0), ratio = (a, b) => ({ value: b ? a / b : null });
  const classFigures = (label, place) => {
    const right = counts[place][place], own = sum(counts[place]), answers = sum(counts.map((line) => line[place]));
    return {
      label: names[label],
      images: own,
      precision: ratio(right, answers),
      recall: ratio(right, own),
      f1: ratio(2 * right, own + answers),
    };
  };
  return {
    model: R.model,
    templates: R.templates,
    figures: { top1: ratio(sum(used.map((_, place) => counts[place][place])), rows.length) },
    classes: used.map(classFigures),
    confusion: { labels: used.map((label) => names[label]), images: counts },
    reliability: bins.map(({ images: many, sum: sure, right }, place) => ({
      above: place / BINS,
      up_to: (place + 1) / BINS,
      images: many,
      confidence: many ? sure / many : null,
      accuracy: ratio(right, many),
    })),
  };
}

function open(change) {
  set({ ...cleared(), view: "", ...change });
  window.scrollTo({ top: 0, behavior: "instant" });
  go(0);
}

function section(title, note, ...content) {
  const id = title.toLowerCase().replace(/\W+/g, "-");
  const words = note ? el("p", { class: "muted", text: note }) : null;
  return el("section", { "aria-labelledby": id }, el("h2", { id, text: title }), words, ...content);
}

const cellOf = (text, more = {}) => el("td", { dir: "auto", text, ...more });
const headOf = (text, more = {}) => el("th", { scope: "row", dir: "auto", text, ...more });

function table(name, heads, rows) {
  const columns = el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })));
  const whole = el("table", {}, el("thead", {}, columns), el("tbody", {}, ...rows));
  return el("div", { class: "box", tabindex: "0", role: "region", "aria-label": name }, whole);
}

function button(text, label, onclick) {
  return el("button", { class: "link", dir: "auto", text, "aria-label": label, onclick });
}

function drawEvaluation() {
  if (evaluated === R) return;
  evaluated = R;
  const cells = data.evaluation ?? [], cell = cells.find((one) => one.config === R.config) ?? counting();
  const parts = [
    figures(cell),
    cells.length > 1 ? comparison(cells, cell) : null,
    ...confusion(cell.confusion),
    calibration(cell.reliability),
    classes(cell.classes),
  ];
  $("evaluation").replaceChildren(...parts.filter(Boolean));
}

function figures({ model, templates, figures: all }) {
  const idle = all.answered?.value === 1 ? ["answered", "top1_answered"] : [];
  const cards = Object.entries(FIGURES).filter(([name]) => all[name]?.value != null && !idle.includes(name))
    .map(([name, title]) => el("div", { class: "card" },
      el("h3", { text: title }),
      el("p", { class: "big", text: shownFigure(name, all[name].value) }),
      el("p", { class: "muted", text: interval(name, all[name]) }),
      name === "ece" ? el("p", { class: "muted", text: `by chance: ${percent(all.ece_by_chance)}` }) : null));
  const about = [model || "model not recorded", templates?.length ? `prompts: ${templates.join("+")}` : ""];
  const below = all.top1.low == null ? "" : ". Below each figure its 95 % interval.";
  const note = visible(about.filter(Boolean).join(" · ")) + below;
  return section("Figures", note, el("div", { class: "cards" }, ...cards));
}

function comparison(cells, shownCell) {
  const heads = ["Model", "Prompts", "Top-1", "95 % interval", "Beyond the first", "ECE", "NLL"];
  const rows = cells.map((one) => {
    const gap = one.difference?.top1, run = data.runs.findIndex(({ config }) => config === one.config);
    const model = visible(one.model), prompts = visible(one.templates.join("+")), all = one.figures;
    const gain = gap ? `${gap.value > 0 ? "+" : ""}${percent(gap.value)} (${interval("top1", gap)})` : "";
    const opener = run < 0 ? model : button(model, `Show ${model} with ${prompts}`, () => set({ run }));
    const texts = [prompts, shownFigure("top1", all.top1.value), interval("top1", all.top1), gain,
      shownFigure("ece", all.ece.value), shownFigure("nll", all.nll.value)];
    return el("tr", { class: one === shownCell ? "is" : "" }, el("th", { scope: "row" }, opener),
      ...texts.map((text) => cellOf(text)));
  });
  return section("Models and prompts compared", "", table("Models and prompts compared", heads, rows));
}

function confusion({ labels, images: counts }) {
  const at = labels.map(placed), text = labels.map(visible), all = labels.map((_, place) => place);
  const sums = counts.map((line) => line.reduce((sum, one) => sum + one, 0));
  const wrong = [], errors = new Float64Array(labels.length);
  counts.forEach((line, t) => line.forEach((number, a) => {
    if (!number || t === a) return;
    wrong.push([number, t, a]);
    errors[t] += number;
    errors[a] += number;
  }));
  wrong.sort((a, b) => b[0] - a[0]);
  const most = all.slice().sort((a, b) => errors[b] - errors[a]).slice(0, PART).sort((a, b) => a - b);
  const whole = labels.length <= WHOLE, part = whole ? all : most;
  const opener = (t, a) => () => open({ truth: [at[t]], top: [at[a]] });

  const square = (t, a) => {
    const number = counts[t][a], td = el("td", { class: t === a ? "right" : "off" });
    if (!number) return td;
    const what = t === a ? "answered right" : `answered with ${text[a]}`;
    td.style.setProperty("--share", Math.sqrt(number / sums[t]));
    td.append(el("button", {
      tabindex: "-1",
      text: count(number),
      title: percent(number / sums[t]),
      "aria-label": `${images(number)} of ${text[t]} ${what}`,
      onclick: opener(t, a),
    }));
    return td;
  };
  const across = (name) => el("th", { scope: "col" }, el("span", { dir: "auto", title: name, text: name }));
  const corner = el("th", { class: "corner", text: "truth ↓  answer →" });
  const heads = [corner, ...part.map((a) => across(text[a])), across("images")];
  const rows = part.map((t) => el("tr", {},
    headOf(text[t], { title: text[t] }),
    ...part.map((a) => square(t, a)),
    el("td", { class: "sum", text: count(sums[t]) })));
  const matrix = el("table", { class: part.length > 10 ? "matrix many" : "matrix" },
    el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
  roving(matrix);

  const note = "Rows are the truth, columns the best label; numbers are images, and open them.";
  const shownPart = whole ? "" : ` The ${PART} of ${count(labels.length)} classes with most confusion.`;
  const box = el("div", { class: "box", role: "region", "aria-label": "Confusion matrix" }, matrix);
  const parts = [section("Confusion matrix", note + shownPart, box)];
  if (!wrong.length) return parts;
  const pairRows = wrong.slice(0, whole ? LISTED_PAIRS : LISTED_MORE).map(([number, t, a]) => el("tr", {},
    headOf(text[t]),
    cellOf(text[a]),
    el("td", {}, button(count(number), `Show ${images(number)} of ${text[t]} taken for ${text[a]}`, opener(t, a))),
    cellOf(percent(number / sums[t]))));
  const pairs = table("Most confused", ["Truth", "Taken for", "Images", "Of the class"], pairRows);
  return [...parts, section("Most confused", "", pairs)];
}

// One tab stop for all buttons of the matrix; arrows go from one to the next.
function roving(matrix) {
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  const first = matrix.querySelector("button");
  if (first) first.tabIndex = 0;
  matrix.addEventListener("keydown", (event) => {
    const step = steps[event.key], cell = event.target.closest("td");
    if (!step || !cell) return;
    event.preventDefault();
    let row = cell.parentNode, column = cell.cellIndex, next = null;
    do {
      if (step[0]) row = step[0] > 0 ? row.nextElementSibling : row.previousElementSibling;
      column += step[1];
      next = row?.cells[column]?.querySelector("button");
    } while (!next && row?.cells[column] && column > 0);
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

const saidBin = ({ above, up_to: upTo, images: many, accuracy }) =>
  `confidence ${percent(above, 0)} to ${percent(upTo, 0)}: ${images(many)}, ${percent(accuracy.value)} right`;

function calibration(bins) {
  const filled = bins.map((bin, place) => ({ ...bin, show: () => open({ bin: place }) })).filter((bin) => bin.images);
  if (!filled.length) return null;
  const note = "Of images that the model is so sure of, how many are right: dots on the diagonal are what they should "
    + "be. Lines are 95 % intervals, bars below the number of images.";
  const rows = filled.map((bin) => el("tr", {},
    headOf(`${percent(bin.above, 0)} to ${percent(bin.up_to, 0)}`),
    el("td", {}, button(count(bin.images), `Show ${saidBin(bin)}`, bin.show)),
    cellOf(percent(bin.confidence)),
    cellOf(percent(bin.accuracy.value)),
    cellOf(interval("", bin.accuracy))));
  const numbers = table("Reliability", ["Confidence", "Images", "Mean confidence", "Right", "95 % interval"], rows);
  return section("Reliability", note, el("div", { class: "chart" }, curve(filled)),
    el("details", {}, el("summary", { text: "As a table" }), numbers));
}

// The reliability curve: above, accuracy by confidence; below, bars of how many images.
function curve(bins) {
  const [width, height, left, right, high, low, bars] = [560, 384, 56, 24, 12, 300, 40];
  const x = (value) => left + value * (width - left - right), y = (value) => low - value * (low - high);
  const line = (of, x1, y1, x2, y2) => el("svg:line", { class: of, x1, y1, x2, y2 });
  const words = (text, at, down, anchor) => el("svg:text", { x: at, y: down, "text-anchor": anchor, text });
  const most = Math.max(...bins.map((bin) => bin.images));
  const marks = [0, 0.25, 0.5, 0.75, 1].flatMap((tick) => [
    line("rule", x(0), y(tick), x(1), y(tick)),
    words(`${100 * tick} %`, x(0) - 8, y(tick) + 4, "end"),
    words(`${100 * tick} %`, x(tick), height - 26, "middle"),
  ]);
  const drawn = bins.map((bin) => {
    const { value, low: least, high: best } = bin.accuracy, middle = x(bin.confidence);
    const from = x(bin.above) + 1.5, wide = x(bin.up_to) - x(bin.above) - 3;
    const tall = Math.max(2, (36 * bin.images) / most);
    const box = (of, top, size) => el("svg:rect", { class: of, x: from, width: wide, y: top, height: size });
    const pressed = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      bin.show();
    };
    return el("svg:g",
      { role: "button", tabindex: "0", "aria-label": `Show ${saidBin(bin)}`, onclick: bin.show, onkeydown: pressed },
      el("svg:title", { text: saidBin(bin) }),
      box("hit", high, low - high + bars),
      box("bars", low + bars - tall, tall),
      least == null ? null : line("whisker", middle, y(least), middle, y(best)),
      el("svg:circle", { class: "dot", cx: middle, cy: y(value), r: 5 }));
  });
  const points = bins.map((bin) => `${x(bin.confidence)},${y(bin.accuracy.value)}`).join(" ");
  return el("svg:svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      class: "reliability",
      role: "group",
      "aria-label": "Reliability curve: share of right answers by confidence. The same numbers are in the table.",
    },
    ...marks, words("confidence", x(0.5), height - 4, "middle"), line("ideal", x(0), y(0), x(1), y(1)),
    ...drawn, el("svg:polyline", { class: "curve", points }));
}

function classes(list) {
  const figure = (one) => [cellOf(shownFigure("", one.value)), cellOf(interval("", one), { class: "muted" })];
  const opener = (one) => button(count(one.images), `Show ${images(one.images)} of ${visible(one.label)}`,
    () => open({ truth: [placed(one.label)] }));
  const rows = list.map((one) => el("tr", {},
    headOf(visible(one.label)),
    el("td", {}, one.images ? opener(one) : "0"),
    ...[one.precision, one.recall, one.f1].flatMap(figure)));
  return section("Classes", "", table("Classes", ["Class", "Images", "Precision", "", "Recall", "", "F1", ""], rows));
}

// ---- Downloads.

const REVIEWS = ["unreviewed", "accepted", "relabelled"];

// A record an image that has a label and is not rejected: {path, label, was, review}.
function* corrections(all) {
  for (let row = 0; row < N; row++) {
    const is = state[row], label = answerOf(row);
    if (is === REJECTED || label < 0 || (is === NEW && !all)) continue;
    const record = {
      path: wholePath(row), label: names[label],
      was: is === ACCEPTED ? names[label] : R.label[row] < 0 ? null : names[R.label[row]],
      review: REVIEWS[is],
    };
    if (label === R.label[row] && R.answers[row]?.length > 1) record.labels = R.answers[row].map((one) => names[one]);
    yield record;
  }
}

function saveCorrections(csv) {
  const records = [...corrections(document.querySelector("input[name=what]:checked").value === "all")];
  const cells = (one) => [one.path, one.label, one.was ?? "", one.review].map(cell).join(",");
  const lines = csv ? ["path,label,was,review", ...records.map(cells)] : records.map((one) => JSON.stringify(one));
  const text = lines.map((line) => line + "\n").join("");
  if (csv) download("corrections.csv", bytes(text), "text/csv");
  else download("corrections.jsonl", [text], "application/jsonl");
  $("saved").textContent = `${images(records.length)} written.`;
}

function saveRejected() {
  const rejected = [...paths.keys()].filter((row) => state[row] === REJECTED).map(wholePath);
  const lines = rejected.filter((path) => !/[\r\n]/.test(path)), left = rejected.length - lines.length;
  download("rejected.txt", bytes(lines.map((path) => path + "\n").join("")), "text/plain");
  const why = left ? ` ${count(left)} left out: a line end in the name.` : "";
  $("saved").textContent = `${images(lines.length)} written.${why}`;
}

function showSaving() {
  const [, , , rejected] = tally(), some = [...corrections(false)].length;
  $("what-reviewed").textContent = `Accepted and relabelled only: ${images(some)}`;
  $("what-all").textContent = `All images, reviewed ones as corrected: ${images([...corrections(true)].length)}`;
  $("what-rejected").textContent = images(rejected);
  $("save-rejected").disabled = !rejected;
  $("start-over").disabled = !(N - tally()[NEW]);
  $("saved").textContent = "";
  $("saving").showModal();
}

$("save").addEventListener("click", showSaving);
$("save-jsonl").addEventListener("click", () => saveCorrections(false));
$("save-csv").addEventListener("click", () => saveCorrections(true));
$("save-rejected").addEventListener("click", saveRejected);
$("start-over").addEventListener("click", () => {
  const many = images(N - tally()[NEW]);
  $("sure-what").textContent = `What was said of ${many} is forgotten for good, unless you have downloaded it.`;
  $("sure").showModal();
});
$("sure-yes").addEventListener("click", () => {
  state.fill(NEW);
  corrected.fill(-1);
  undone.length = 0;
  changed();
  forgetSaving();
  stored(KEY, null);
  $("sure").close();
  $("saving").close();
  apply();
});

// ---- Keys, and all else that is clicked.

const TYPED = "input:not([type=checkbox], [type=radio], [type=range]), select, #relabel, #saving, #sure, #keys";
const ACTS = { a: "accept", r: "relabel", x: "reject" };
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.target.closest(TYPED)) return;
  const { key } = event, inGrid = event.target.closest("#grid"), viewing = $("large").open;
  const shortcut = event.ctrlKey || event.metaKey;
  if (event.altKey || $("images").hidden) {
    if (key === "?") $("keys").showModal();
    return;
  }
  const page = Math.max(1, Math.floor((innerHeight - $("bar").offsetHeight) / rowHeight)) * columns;
  const to = {
    ArrowRight: focused + 1, ArrowLeft: focused - 1,
    ArrowDown: Math.min(focused + columns, Math.max(shown.length - 1, focused)),
    ArrowUp: focused - columns, Home: 0, End: shown.length - 1, PageDown: focused + page, PageUp: focused - page,
  }[key];
  if (shortcut && key.toLowerCase() === "a" && inGrid) pickAll();
  else if (shortcut) return;
  else if (viewing && (key === "ArrowRight" || key === "ArrowLeft")) enlarge(large + (key === "ArrowRight" ? 1 : -1));
  else if (inGrid && to !== undefined) {
    if (key === "ArrowUp" && to < 0) return;
    if (!event.shiftKey) anchor = Math.max(0, Math.min(shown.length - 1, to));
    go(to);
    if (event.shiftKey) pickRange(focused);
  } else if (inGrid && key === " ") pickOne(focused);
  else if (inGrid && key === "Enter" && !event.target.closest("button")) enlarge(focused);
  else if (inGrid && key === "Escape" && chosenCount) pick(() => chosen.fill(0));
  else if ((inGrid || viewing || chosenCount) && ACTS[key.toLowerCase()]) act(ACTS[key.toLowerCase()]);
  else if (key.toLowerCase() === "u") undo();
  else if (key === "/" && !viewing) $("text").focus();
  else if (key === "?") $("keys").showModal();
  else return;
  event.preventDefault();
});

for (const bar of [$("selection"), $("large")])
  bar.addEventListener("click", (event) => {
    const found = event.target.closest("[data-act]");
    if (found) act(found.dataset.act);
  });

let typing = 0;
$("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => set({ text: $("text").value.trim() }, { quiet: true }), 120);
});
$("sort").addEventListener("change", () => set({ sort: $("sort").value }));
$("run").addEventListener("change", () => set({ run: Number($("run").value) }));
$("select-all").addEventListener("click", pickAll);
$("select-none").addEventListener("click", () => pick(() => chosen.fill(0)));
$("clear-empty").addEventListener("click", () => set(cleared()));
$("refresh").addEventListener("click", apply);
$("help").addEventListener("click", () => $("keys").showModal());
$("to-images").addEventListener("click", (event) => { event.preventDefault(); set({ view: "" }); });
$("to-evaluation").addEventListener("click", (event) => { event.preventDefault(); set({ view: "evaluation" }); });
$("size").addEventListener("input", () => {
  tile = Number($("size").value);
  stored("clipzs-size", tile);
  layOut();
});

function drawer(openIt) {
  document.body.classList.toggle("filtering", openIt);
  $("open-filters").setAttribute("aria-expanded", openIt);
  for (const node of document.querySelectorAll("header.top, #images > main")) node.inert = openIt;
  (openIt ? $("close-filters") : $("open-filters")).focus();
}
$("open-filters").addEventListener("click", () => drawer(true));
for (const id of ["close-filters", "show"]) $(id).addEventListener("click", () => drawer(false));
$("filters").addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && document.body.classList.contains("filtering")) drawer(false);
});

let drawing = 0;
addEventListener("scroll", () => {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    draw();
  });
}, { passive: true });
new ResizeObserver(layOut).observe(grid.parentNode);
addEventListener("hashchange", () => { at = fromAddress(); apply(); });
addEventListener("pagehide", () => { if (saving) keep(); });
addEventListener("storage", ({ key }) => { // another tab has gone on
  if (key !== KEY) return;
  load();
  changed();
  forgetSaving();
});

// ---- Start.

function header() {
  const models = [...new Set(data.runs.map((run) => run.model).filter(Boolean))];
  const errors = N ? Object.keys(data.runs[0].error).length : 0;
  const made = new Date(data.made).toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" });
  const { engine, device, precision, interrupted } = data.facts;
  $("title").textContent = data.title ? visible(data.title) : "clipzs report";
  $("made").textContent = [
    `clipzs ${data.clipzs} report`, images(N), errors ? `${count(errors)} unreadable` : "",
    models.map(visible).join(", "), [engine, device, precision].filter(Boolean).join(" "), made,
    interrupted ? "stopped before the end" : "",
  ].filter(Boolean).join(" · ");
  $("made").title = data.runs.map((run) => `config ${run.config}`).join(", ");
  $("sort").append(...Object.entries(SORTS).map(([value, text]) => el("option", { value, text })));
  const calledRun = (run) => [run.model || "?", run.templates.join("+")].filter(Boolean).map(visible).join(" · ");
  const called = data.runs.map(calledRun);
  const twice = new Set(called).size < called.length;
  called.forEach((name, value) => {
    const text = twice ? `${name} · ${data.runs[value].config.slice(0, 8)}` : name;
    $("run").append(el("option", { value, text }));
  });
  $("run-choice").hidden = data.runs.length < 2;
  $("views").hidden = truth === null;
}

header();
if (N) {
  load();
  at = fromAddress();
  R = runAt(at.run);
  facetLists();
  apply();
  changed();
  forgetSaving();
} else {
  $("images").hidden = false;
  $("count").textContent = "No images";
}
})();
