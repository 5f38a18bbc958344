(() => {

// ---- What is asked. The address holds it, never a picture.

const DECIMALS = Number(document.body.dataset.decimals);
const SUFFIXES = new Set(document.body.dataset.suffixes.split(" "));
const THRESHOLD = Number(document.body.dataset.threshold);
const START = {
  labels: null, templates: "", model: "", mode: "one", least: 0, threshold: THRESHOLD, top: 0, sort: "added",
};
const MODES = ["one", "unknown", "multi"], TOPS = [0, 1, 3, 5, 10];
let at = { ...START, labels: [] }; // a label is a text, or an object as the server has it
let offer = null; // the answer of /v1/models

// Prompts that hold where none are chosen here.
const ownPrompts = () => [...offer.options.templates, ...offer.options.template];

const nameOf = (label) => label.name ?? label;
const modelNow = () => offer.models.find(({ id }) => id === at.model) ?? offer.models.find((one) => one.default);

// A list of labels as it is typed or pasted: commas, tabs and line ends part them, CSV quotes keep a comma.
function split(text) {
  const found = [];
  let word = "", quoted = false;
  for (let place = 0; place < text.length; place++) {
    const one = text[place];
    if (quoted) {
      if (one !== '"') word += one;
      else if (text[place + 1] === '"') { word += '"'; place += 1; }
      else quoted = false;
    } else if (one === '"' && !word.trim()) { word = ""; quoted = true; }
    else if (/[,\t\r\n]/.test(one)) { found.push(word); word = ""; }
    else word += one;
  }
  const plain = (label) => label.replace(/\s+/g, " ").trim();
  return { labels: found.map(plain).filter(Boolean), rest: plain(word), open: quoted };
}

function joined(labels) {
  return labels.map((label) => (/[",]/.test(label) ? `"${label.replaceAll('"', '""')}"` : label)).join(",");
}

function address() {
  const parts = new URLSearchParams();
  if (at.labels.length) parts.set("labels", joined(at.labels.map(nameOf)));
  for (const [key, start] of Object.entries(START)) if (key !== "labels" && at[key] !== start) parts.set(key, at[key]);
  return `#${parts}`;
}

// What is none of ours is left out. A label that the server knows more of than its name is taken as it has it.
function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), found = { ...START };
  const own = new Map((offer?.labels ?? []).map((label) => [nameOf(label), label]));
  const { labels, rest } = split(given.get("labels") ?? "");
  const named = [...new Set([...labels, rest].filter(Boolean))].map((name) => own.get(name) ?? name);
  found.labels = given.has("labels") ? named : [...own.values()];
  for (const key of ["templates", "model", "sort"]) if (given.has(key)) found[key] = given.get(key);
  if (MODES.includes(given.get("mode"))) found.mode = given.get("mode");
  if (TOPS.includes(Number(given.get("top")))) found.top = Number(given.get("top"));
  for (const key of ["least", "threshold"]) {
    const value = Number(given.get(key) ?? NaN);
    if (value >= 0 && value <= 1) found[key] = value;
  }
  return found;
}

// All that is chosen, null while there is nothing to ask: `request` without pictures, `print` of what embeds pictures,
// `key` of what is answered.
function asked() {
  if (!offer || at.labels.length < (at.mode === "one" ? 2 : 1)) return null;
  const model = modelNow(), options = at.templates ? { templates: [at.templates] } : {};
  if (at.mode !== "one") options[at.mode] = true;
  if (at.mode === "multi") options.threshold = at.threshold;
  else if (at.least) options.min_score = at.least;
  if (at.top) options.top_k = at.top;
  const own = at.labels.length === offer.labels.length && offer.labels.every((one, place) => one === at.labels[place]);
  const request = { model: model.id, options, embeddings: true, ...(own ? {} : { labels: at.labels }) };
  const print = ["digest", "fingerprint", "precision", "device", "engine"].map((key) => model[key]).join(" ");
  return { request, print, key: JSON.stringify([print, at.labels, options]) };
}

// ---- The server.

class Problem extends Error {
  constructor(text, { hint = "", status = 0, late = false } = {}) {
    super(text);
    Object.assign(this, { hint, status, late });
  }
  get gone() { return this.status === 0 || (this.status === 503 && !this.late); }
  get words() { return [this.message, this.hint].filter(Boolean).map(visible).join(". "); }
}

let token = null;
try { token = sessionStorage.getItem("clipzs-token"); } catch { /* then it is asked for again */ }

// JSON of an address. Waits where the server is busy, and asks for the token where it wants one.
async function ask(path, { body, signal } = {}) {
  for (;;) {
    const headers = token ? { authorization: `Bearer ${token}` } : {}, sent = token;
    if (typeof body === "string") headers["content-type"] = "application/json";
    let response, said;
    try {
      const how = { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store", credentials: "omit" };
      response = await fetch(path, how);
      said = await response.text();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server does not answer");
    }
    if (response.ok) return JSON.parse(said);
    if (response.status === 429) await rest(Number(response.headers.get("retry-after")) || 1, signal);
    else if (response.status === 401) await tokenFor(sent);
    else throw problemOf(response, said);
  }
}

function problemOf(response, said) {
  try {
    const { error, hint } = JSON.parse(said);
    const late = response.status === 408 || response.headers.has("retry-after"); // it took too long
    return new Problem(error, { hint: hint ?? "", status: response.status, late });
  } catch {
    return new Problem(`The server answers ${response.status} ${response.statusText}`, { status: response.status });
  }
}

let resting = 0;
async function rest(seconds, signal) {
  resting += 1;
  redraw();
  await new Promise((done, failed) => {
    const timer = setTimeout(done, 1000 * Math.min(seconds, 60));
    signal?.addEventListener("abort", () => { clearTimeout(timer); failed(new DOMException("", "AbortError")); });
  }).finally(() => { resting -= 1; });
  redraw();
}

// Resolves when there is another token than the one that was refused.
let tokenWanted = null;
function tokenFor(refused) {
  if (token !== refused) return null;
  $("token-problem").textContent = refused ? "The server does not take this token." : "";
  tokenWanted ??= new Promise((done) => {
    $("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      token = $("token-text").value;
      try { sessionStorage.setItem("clipzs-token", token); } catch { /* it holds for this page */ }
      $("token-text").value = "";
      tokenWanted = null;
      $("token").close();
      done();
    }, { once: true });
    $("token").showModal();
  });
  return tokenWanted;
}
$("token").addEventListener("close", () => { if (tokenWanted) $("token").showModal(); }); // nothing goes on without

async function connect() {
  try {
    offer = await ask("v1/models");
  } catch (error) {
    return lost(error);
  }
  at = fromAddress();
  offered();
  return changed({ now: true });
}

// The server is gone: say so, and look whether it is back, ever more seldom.
let probing = 0;
function lost(problem) {
  if (!problem.gone) return refuse(problem);
  uploads.abort();
  scoring.abort();
  const stays = pictures.length ? "Your pictures and labels stay here; it" : "It";
  const [words] = $("problem").children;
  words.textContent = `${problem.message}. ${stays} goes on by itself when the server is back.`;
  $("problem").hidden = false;
  clearTimeout(probing);
  const look = async (pause) => {
    const alive = await isAlive();
    if (!alive) { probing = setTimeout(look, pause, Math.min(15000, 1.5 * pause)); return; }
    probing = 0;
    $("problem").hidden = true;
    redraw();
    connect();
  };
  probing = setTimeout(look, 2000, 3000);
  $("again").onclick = () => { clearTimeout(probing); look(3000); };
  return redraw();
}

async function isAlive() {
  try {
    return (await fetch("health", { cache: "no-store", credentials: "omit" })).ok;
  } catch {
    return false;
  }
}

// ---- Pictures: each is uploaded once for each model; its embedding comes back and is asked about from then on.

// Requests at a time; pictures in one, and their bytes; bytes of a request besides.
const UPLOADS = 2, TOGETHER = 16, TOGETHER_BYTES = 8e6, SPARE = 1e6;
let pictures = [], numbered = 0;
let uploads = new AbortController(), scoring = new AbortController();
let flying = 0, refused = null, cancelled = false, timer = 0;

class Picture {
  id = numbered++;
  vectors = new Map(); // what embeds pictures → base64
  record = null; // the last answer
  key = null; // of what it answers
  error = null;
  flying = false;
  alone = false; // is sent by itself: sent with others, something broke
  place = Infinity; // among those that are shown
  thumb = undefined; // its address; null: the browser cannot show it
  heat = null;
  constructor(file, name) {
    this.file = file;
    this.name = name;
  }
}

const isDone = (picture, now) => picture.error !== null || picture.key === now?.key;
const isAsking = (now) => now !== null && !probing && refused !== now.key;
const isAwaited = (picture, now) => isAsking(now) && !cancelled && !isDone(picture, now);
const isPending = (picture, now) => !isDone(picture, now) && !picture.vectors.has(now.print);

// Something is chosen otherwise: ask anew, once all is typed.
function changed({ now = false } = {}) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (address() !== (location.hash || "#")) history.replaceState(null, "", address());
    go();
  }, now ? 0 : 150);
  drawSettings();
  redraw();
}

async function go() {
  const now = asked();
  scoring.abort();
  if (!now || probing) return redraw();
  if (refused !== now.key) refuse(null);
  const mine = (scoring = new AbortController());
  upload();
  const known = pictures.filter((one) => !isDone(one, now) && one.vectors.has(now.print));
  known.sort((a, b) => a.place - b.place); // those that are seen first
  try {
    for (let start = 0; start < known.length; start += atOnce()) {
      const some = known.slice(start, start + atOnce());
      const sent = some.map((one) => ({ name: one.name, embedding: one.vectors.get(now.print) }));
      const body = JSON.stringify({ ...now.request, embeddings: false, images: sent });
      const { results, warnings } = await ask("v1/classify", { body, signal: mine.signal });
      take(some, results, now);
      warn(warnings, now);
      redraw();
    }
  } catch (error) {
    failed(error, now);
  }
  announce();
  return redraw();
}

// What could not be done: the server is gone, or it takes no answer to these labels and options.
function failed(error, now) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) throw error;
  if (error.gone) lost(error);
  else if (asked()?.key === now.key) refuse(error, now.key);
}

function refuse(problem, key = null) {
  refused = key;
  $("label-problem").textContent = problem ? problem.words : "";
  if (problem) $("label-warning").textContent = "";
}

// What the server has to say of the labels it took.
function warn(warnings, now) {
  if (asked()?.key === now.key) $("label-warning").textContent = (warnings ?? []).map(visible).join(". ");
}

function upload() {
  const now = asked();
  if (!now || cancelled || probing || refused === now.key) return;
  if (uploads.signal.aborted || uploads.print !== now.print) {
    uploads.abort();
    uploads = new AbortController();
    uploads.print = now.print;
  }
  while (flying < UPLOADS) {
    const some = nextChunk(now);
    if (!some.length) return;
    send(some, now, uploads.signal);
  }
}

// How many pictures a request may have, so that two of them have room.
const atOnce = () => Math.max(1, Math.min(offer.limits.images, Math.floor(offer.limits.waiting_images / 2)));

function nextChunk(now) {
  const some = [];
  let size = 0;
  for (const one of pictures) {
    if (one.flying || !isPending(one, now)) continue;
    const { image_bytes: each, body_bytes: all } = offer.limits, largest = Math.min(each, all - SPARE);
    if (one.file.size > largest) {
      one.error = `larger than ${largest / 1e6} MB, the most that this server takes`;
      continue;
    }
    size += one.file.size;
    if (some.length && (size > Math.min(TOGETHER_BYTES, all - SPARE) || one.alone || some[0].alone)) break;
    some.push(one);
    if (some.length === Math.min(TOGETHER, atOnce())) break;
  }
  return some;
}

async function send(some, now, signal) {
  const body = new FormData();
  body.append("request", JSON.stringify(now.request));
  for (const one of some) { body.append("image", one.file, one.name); one.flying = true; }
  flying += 1;
  redraw();
  try {
    const { results, warnings } = await ask("v1/classify", { body, signal });
    warn(warnings, now);
    take(some, results, now);
  } catch (error) {
    await notSent(error, some, now);
  } finally {
    flying -= 1;
    for (const one of some) one.flying = false;
  }
  if (asked()?.key === now.key) upload();
  else go(); // asked otherwise meanwhile: of what is here now
  announce();
  redraw();
}

async function notSent(error, some, now) {
  if (error.name === "AbortError") return;
  if (error.late) some.forEach((one) => alone(one, error.message));
  else if (error.status !== 0 || !(await isAlive())) failed(error, now);
  else { // the server is there: a file is not, or has changed since, or the connection broke
    for (const one of some) {
      const first = await one.file.slice(0, 1).arrayBuffer().catch(() => null);
      if (first) alone(one, "the connection broke while it was sent");
      else one.error = "the file is gone or has changed: add it again";
    }
  }
}

// Once more by itself, and not a third time.
function alone(picture, reason) {
  if (picture.alone) picture.error = reason;
  picture.alone = true;
}

// What is said of some pictures; of what is not asked any more only that they cannot be read.
function take(some, results, now) {
  const current = asked()?.key === now.key;
  some.forEach((picture, place) => {
    const { embedding, ...record } = results[place];
    if (embedding) picture.vectors.set(now.print, embedding);
    if (record.error !== null) picture.error = record.error;
    else if (!current) return;
    picture.record = { ...record, path: picture.name };
    picture.key = now.key;
  });
}

// ---- Pictures come in: dropped, pasted, picked, photographed.

const isHidden = (path) => path.split("/").some((part) => part.startsWith("."));
const suffixOf = (name) => name.slice(name.lastIndexOf(".")).toLowerCase();
const isPicture = ({ type, name }) => type.startsWith("image/") || SUFFIXES.has(suffixOf(name));
const markOf = (file, name) => [name, file.size, file.lastModified].join("/");

// `whole`: a folder, of which only pictures are taken, as `classify` does.
function add(found, { whole = false } = {}) {
  const here = new Set(pictures.filter(({ error }) => error === null).map(({ file, name }) => markOf(file, name)));
  const fitting = whole ? found.filter(({ file, name }) => isPicture(file) && !isHidden(name)) : found;
  const fresh = fitting.filter(({ file, name }) => !here.has(markOf(file, name)) && here.add(markOf(file, name)));
  const again = new Set(fresh.map(({ name }) => name));
  remove(pictures.filter(({ error, name }) => error !== null && again.has(name)));
  pictures.push(...fresh.map(({ file, name }) => new Picture(file, name)));
  const notes = [fresh.length ? `${images(fresh.length)} added` : ""];
  if (fitting.length > fresh.length) notes.push(`${count(fitting.length - fresh.length)} here already`);
  if (found.length > fitting.length) notes.push(`${count(found.length - fitting.length)} left out: no images`);
  say(notes.filter(Boolean).join(", ") || "No images in it");
  if (!fresh.length) return;
  cancelled = false;
  changed({ now: true });
}

const named = (files) => Array.from(files, (file) => ({ file, name: file.webkitRelativePath || file.name }));

async function inside(entry) {
  if (entry.isFile) {
    const file = await new Promise((done) => { entry.file(done, () => done(null)); });
    return file ? [{ file, name: entry.fullPath.replace(/^\//, "") }] : [];
  }
  const reader = entry.createReader(), entries = [], found = [];
  for (;;) {
    const some = await new Promise((done) => { reader.readEntries(done, () => done([])); });
    if (!some.length) break;
    entries.push(...some);
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const one of entries) if (!one.name.startsWith(".")) found.push(...await inside(one));
  return found;
}

async function dropped(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const folders = items.map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry?.isDirectory);
  const files = named(transfer.files).filter(({ name }) => !folders.some((folder) => folder.name === name));
  if (files.length) add(files);
  for (const folder of folders) add(await inside(folder), { whole: true });
  if (!files.length && !folders.length) say("Only files can be dropped: save the picture first");
}

let depth = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
// Each element that is entered and left tells it; outside is where more were left.
function dragged(event, step) {
  if (!hasFiles(event)) return;
  depth = Math.max(0, depth + step);
  $("over").hidden = depth === 0;
}
addEventListener("dragenter", (event) => dragged(event, 1));
addEventListener("dragleave", (event) => dragged(event, -1));
addEventListener("dragover", (event) => { event.preventDefault(); });
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("over").hidden = true;
  if (event.dataTransfer) dropped(event.dataTransfer);
});

let pasted = 0;
addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  // what is copied as a picture, not as a file, is called image.png every time
  const called = ({ name }) => (/^image\.\w+$/.test(name) ? `pasted-${++pasted}${suffixOf(name)}` : name);
  add(files.map((file) => ({ file, name: called(file) })));
});

for (const [button, chooser] of Object.entries({ pick: $("files"), "pick-folder": $("folder"), shoot: $("camera") })) {
  $(button).addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    add(named(chooser.files), { whole: chooser.webkitdirectory });
    chooser.value = "";
  });
}

function remove(some) {
  for (const one of some) {
    for (const url of [one.thumb, one.full, one.heat?.url]) if (url) URL.revokeObjectURL(url);
    cards.get(one.id)?.node.remove();
    cards.delete(one.id);
  }
  const gone = new Set(some);
  pictures = pictures.filter((one) => !gone.has(one));
  redraw();
}

// ---- Thumbnails, made here: a few at a time, of what is shown.

const THUMB = 360, THUMBS = 3;
const thumbsWanted = [];
let thumbing = 0;

function wantThumb(picture) {
  if (picture.thumb !== undefined || picture.thumbWanted) return;
  picture.thumbWanted = true;
  thumbsWanted.push(picture);
  nextThumb();
}

async function nextThumb() {
  if (thumbing >= THUMBS || !thumbsWanted.length) return;
  const [picture] = thumbsWanted.sort((a, b) => a.place - b.place).splice(0, 1);
  thumbing += 1;
  try {
    const bitmap = await createImageBitmap(picture.file, { resizeWidth: THUMB, resizeQuality: "medium" });
    const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    const blob = await new Promise((done) => { canvas.toBlob(done, "image/webp", 0.8); });
    picture.thumb = pictures.includes(picture) ? URL.createObjectURL(blob) : null;
  } catch {
    picture.thumb = null;
  }
  thumbing -= 1;
  redraw();
  nextThumb();
}

// ---- Labels and options.

function set(change) {
  at = { ...at, ...change };
  changed();
}

function addLabels(names) {
  const here = new Set(at.labels.map(nameOf)), own = new Map((offer?.labels ?? []).map((one) => [nameOf(one), one]));
  const fresh = [...new Set(names)].filter((name) => !here.has(name));
  if (fresh.length) set({ labels: [...at.labels, ...fresh.map((name) => own.get(name) ?? name)] });
  const twice = names.filter((name) => here.has(name)).map(visible);
  if (twice.length) say(`${twice.join(", ")} ${twice.length > 1 ? "are labels" : "is a label"} already`);
  else if (fresh.length) tell(`${fresh.map(visible).join(", ")} added, ${count(at.labels.length)} labels`);
}

function removeLabel(label) {
  set({ labels: at.labels.filter((one) => one !== label) });
  tell(`${visible(nameOf(label))} removed, ${count(at.labels.length)} labels`);
}

const input = $("label");
function typedLabels({ all = false } = {}) {
  const { labels, rest: last, open } = split(input.value);
  if (open && !all) return;
  if (labels.length || all) input.value = all ? "" : last;
  addLabels(all && last ? [...labels, last] : labels);
}
input.addEventListener("input", (event) => { if (!event.isComposing && /[,\t\n]/.test(input.value)) typedLabels(); });
input.addEventListener("change", () => typedLabels({ all: true }));
input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter") {
    event.preventDefault();
    typedLabels({ all: true });
  } else if (event.key === "Backspace" && !input.value && at.labels.length && !event.repeat) {
    event.preventDefault();
    removeLabel(at.labels.at(-1));
  }
});
input.addEventListener("paste", (event) => {
  const text = event.clipboardData?.getData("text") ?? "";
  if (!/[,\t\r\n]/.test(text)) return;
  event.preventDefault();
  input.setRangeText(text, input.selectionStart, input.selectionEnd, "end"); // which leaves line ends out
  const { labels, rest: last } = split(text);
  input.value = "";
  addLabels([...labels, last].filter(Boolean));
});
$("labels").addEventListener("click", ({ target }) => { if (target === $("labels")) input.focus(); });

const EXAMPLES = ["cat, dog, bird, car", "indoors, outdoors", "photo, drawing, screenshot, document"];
$("examples").append(el("span", { class: "muted", text: "Try" }), ...EXAMPLES.map((text) =>
  el("button", { class: "chip", text, onclick: () => addLabels(text.split(", ")) })));

$("model").addEventListener("change", () => set({ model: $("model").value }));
$("templates").addEventListener("change", ({ target: { value } }) => set({ templates: value === usual ? "" : value }));
$("top").addEventListener("change", () => set({ top: Number($("top").value) }));
$("sort").addEventListener("change", () => { set({ sort: $("sort").value }); });
$("mode").addEventListener("change", ({ target }) => set({ mode: target.value }));
$("least").addEventListener("input", ({ target }) => {
  set({ [at.mode === "multi" ? "threshold" : "least"]: Number(target.value) });
});

const option = (value, text) => el("option", { value, text });
let usual = ""; // what stands in the list for prompts that are not chosen
$("top").append(...TOPS.map((top) => option(top, top ? `The best${top > 1 ? ` ${top}` : ""}` : "All")));

// What the server has to choose among.
function offered() {
  const called = ({ id, name }) => visible(id === name ? id : `${id} (${name})`);
  $("model").replaceChildren(...offer.models.map((model) => option(model.id, called(model))));
  $("model-field").hidden = offer.models.length < 2;
  const own = ownPrompts();
  usual = own.length ? "" : "default";
  $("templates").replaceChildren(
    ...own.length ? [option("", `As the server is set: ${own.map(visible).join(", ")}`)] : [],
    ...offer.templates.map(({ name, templates }) => option(name, `${visible(name)} (${templates})`)));
  if (!offer.models.some(({ id }) => id === at.model)) at.model = "";
  if (!offer.templates.some(({ name }) => name === at.templates)) at.templates = "";
}

function newChip(label) {
  const name = visible(nameOf(label)), onclick = () => { removeLabel(label); input.focus(); };
  const of = { class: "chip", "aria-label": `Remove the label ${name}`, title: "Remove", onclick };
  return el("li", {}, el("button", of, el("span", { dir: "auto", text: name }), icon("reject")));
}

function drawSettings() {
  const chips = at.labels.map((label) => $("chips").nodes?.get(label) ?? newChip(label));
  $("chips").nodes = new Map(at.labels.map((label, place) => [label, chips[place]]));
  $("chips").replaceChildren(...chips);
  $("chips").hidden = !chips.length;
  $("examples").hidden = chips.length > 0;
  $("clear-labels").hidden = chips.length < 2;
  input.placeholder = chips.length ? "another label" : "cat, dog, …";
  $("model").value = offer ? modelNow().id : "";
  $("templates").value = at.templates || usual;
  const note = offer?.templates.find(({ name }) => name === (at.templates || usual))?.description ?? "";
  $("templates-note").textContent = visible(note);
  $("templates-note").hidden = !note;
  $("top").value = at.top;
  for (const one of document.querySelectorAll("[name=mode]")) one.checked = one.value === at.mode;
  const least = at.mode === "multi" ? at.threshold : at.least;
  $("least-name").textContent = at.mode === "multi" ? "A label is an answer from" : "Unknown below";
  $("least").value = least;
  const words = least || at.mode === "multi" ? `${Math.round(100 * least)} %` : "off";
  $("least-value").textContent = words;
  $("least").setAttribute("aria-valuetext", words);
  document.documentElement.style.setProperty("--least", least);
  document.documentElement.classList.toggle("with-least", least > 0);
  if (!offer) return;
  const { name, precision, device, engine } = modelNow();
  $("about").textContent = visible(`${name} · ${engine} ${device} ${precision}`);
}

// ---- What is shown of the pictures.

const SORTS = {
  added: "As added", unsure: "Most uncertain first", high: "Highest score first", label: "By answer", name: "By name",
};
const SURE = {
  "": ["Any certainty", () => true],
  sure: ["90 % and more", (best) => best >= 0.9],
  unsure: ["Under 90 %", (best) => best < 0.9],
  guess: ["Under 50 %", (best) => best < 0.5],
};
const MANY = 2, PAGE = 60, LISTED = 200; // pictures from which on there are choices, and at a time; labels in a list
let show = "", sure = "", pages = 1, shown = [];

const scoreOf = (picture, label) => picture.record?.scores?.find((one) => one.label === label)?.score;
const broken = () => pictures.filter(({ error }) => error !== null).length;
const bestOf = (picture) => picture.record?.scores?.[0]?.score;
// As clipzs.results.Result.answers.
const answersOf = ({ record }) => (
  record?.labels?.length ? record.labels : record?.label == null ? [] : [record.label]
);

// How far the answer is from another one.
function certainty(picture) {
  const scores = picture.record?.scores ?? [];
  if (at.mode === "multi") return Math.min(...scores.map(({ score }) => Math.abs(score - at.threshold)));
  return scores.length > 1 ? scores[0].score - scores[1].score : bestOf(picture);
}

const FIGURES = {
  unsure: certainty,
  high: (picture) => -bestOf(picture),
  label: (picture) => (picture.record?.label == null ? undefined : visible(picture.record.label).toLowerCase()),
  name: (picture) => picture.name.toLowerCase(),
};

function sorted(some) {
  const [kind, label] = at.sort.startsWith("of:") ? ["of", at.sort.slice(3)] : [at.sort];
  const figure = kind === "of" ? (picture) => (-scoreOf(picture, label)) : FIGURES[kind];
  if (!figure) return some;
  const valued = some.map((picture) => [picture.error === null ? figure(picture) : undefined, picture]);
  const none = ([value]) => value === undefined || Number.isNaN(value);
  const known = valued.filter((one) => !none(one)).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return [...known, ...valued.filter(none)].map(([, picture]) => picture);
}

function choose() {
  const fits = (picture) => {
    if (show === "!" ? picture.error === null : show && !answersOf(picture).includes(show.slice(1))) return false;
    return !sure || SURE[sure][1](bestOf(picture));
  };
  for (const picture of pictures) picture.place = Infinity;
  shown = sorted(pictures.filter(fits));
  shown.forEach((picture, place) => { picture.place = place; });
}

// The choices that fit the pictures there are; the select is made anew only if they change.
function fillSelect(select, options, value) {
  const text = JSON.stringify(options);
  if (select.made !== text) {
    select.made = text;
    select.replaceChildren(...options.map(([one, words]) => option(one, words)));
  }
  select.value = value;
}

function drawChoices() {
  const counts = new Map();
  for (const label of pictures.flatMap(answersOf)) counts.set(label, (counts.get(label) ?? 0) + 1);
  const named = [...counts].sort((a, b) => b[1] - a[1]).slice(0, LISTED);
  if (show.startsWith("=") && !counts.has(show.slice(1))) named.push([show.slice(1), 0]);
  const shows = named.map(([label, many]) => [`=${label}`, `${visible(label)} (${count(many)})`]);
  shows.unshift(["", `All (${count(pictures.length)})`]);
  if (broken() || show === "!") shows.push(["!", `Unreadable (${count(broken())})`]);
  fillSelect($("show"), shows, show);
  fillSelect($("sure"), Object.entries(SURE).map(([value, [words]]) => [value, words]), sure);
  const names = at.labels.slice(0, LISTED).map(nameOf).map((name) => [`of:${name}`, `Score of ${visible(name)}`]);
  const sorts = [...Object.entries(SORTS), ...names];
  if (!sorts.some(([value]) => value === at.sort)) at.sort = START.sort;
  fillSelect($("sort"), sorts, at.sort);
}

const touched = matchMedia("(pointer: coarse)").matches;
let drawing = 0;
function redraw() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    draw();
  });
}

function draw() {
  const now = asked(), many = pictures.length >= MANY;
  document.body.classList.toggle("empty", !pictures.length);
  $("teach").hidden = pictures.length > 0;
  const what = pictures.length ? "more pictures" : touched ? "pictures" : "pictures here";
  $("drop-title").textContent = `${touched ? "Add" : "Drop"} ${what}`;
  $("bar").hidden = !pictures.length;
  $("choices").hidden = !many;
  if (!many) show = sure = "";
  drawChoices();
  choose();
  drawProgress(now);
  $("none").hidden = shown.length > 0 || !pictures.length;
  $("cards").hidden = !many;
  $("single").hidden = pictures.length !== 1;
  if (pictures.length === 1) drawDetail($("single"), pictures[0], now);
  else $("single").replaceChildren();
  if (many) drawCards(now);
  if ($("large").open) {
    if (shown.includes(opened)) drawDetail($("large-body"), opened, now);
    else $("large").close();
  }
  if ($("saving").open) drawSaving();
}

function drawProgress(now) {
  const all = images(pictures.length), done = pictures.filter((one) => isDone(one, now)).length;
  const working = isAsking(now) && done < pictures.length;
  const pending = working && pictures.some((one) => isPending(one, now));
  const part = shown.length < pictures.length && pictures.length >= MANY;
  const parts = [pending ? `${count(done)} of ${all}` : part ? `${count(shown.length)} of ${all}` : all];
  if (!now && !at.labels.length) parts.push("add labels to see what fits");
  else if (!now) parts.push("one label alone is always right: add another, or choose “or unknown”");
  if (broken()) parts.push(`${count(broken())} unreadable`);
  if (resting) parts.push("the server is busy, waiting");
  if (pending && cancelled) parts.push("cancelled");
  $("count").textContent = parts.join(" · ");
  $("progress").hidden = $("cancel").hidden = !(pending && !cancelled && pictures.length > 1);
  $("progress").max = pictures.length || 1;
  $("progress").value = done;
  $("go-on").hidden = !(pending && cancelled);
  $("cards").setAttribute("aria-busy", Boolean(working && !cancelled));
}

// For those who hear the page: only once all is done.
function tell(text) {
  $("said").textContent = text;
}
let announced = "";
function announce() {
  const now = asked();
  if (!now || announced === now.key + pictures.length || !pictures.every((one) => isDone(one, now))) return;
  announced = now.key + pictures.length;
  if (pictures.length === 1) tell(described(pictures[0]));
  else if (broken()) tell(`${images(pictures.length)} classified, ${count(broken())} unreadable`);
  else if (pictures.length) tell(`${images(pictures.length)} classified`);
}

const baseOf = (picture) => visible(picture.name.slice(picture.name.lastIndexOf("/") + 1));
const rounded = (score, digits = 0) => {
  const least = 10 ** -digits / 100;
  return score > 0 && score < least / 2 ? `<${percent(least, digits)}` : percent(score, digits);
};

function answerText(picture) {
  if (picture.error !== null) return "unreadable";
  return answersOf(picture).map(visible).join(", ");
}

function described(picture) {
  if (picture.error !== null) return `${baseOf(picture)}, unreadable: ${visible(picture.error)}`;
  if (!picture.record) return `${baseOf(picture)}, not classified yet`;
  const score = picture.record.score;
  return `${baseOf(picture)}, ${answerText(picture)}${score === null ? "" : ` ${rounded(score)}`}`;
}

// ---- Bars. A bar stays with its label, so that a change is seen to move.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const EASE = { duration: 260, easing: "ease-out" };

function moved(node, from, to) {
  if (!still.matches) node.animate([from, to], EASE);
}

// `most`: how many; `pick`: what a label does where it can be chosen, `picked` the one that is; `large`: seen closely.
function drawBars(list, picture, { most, pick, picked, large = false }) {
  const rows = (list.rows ??= new Map()), scores = (picture.record?.scores ?? []).slice(0, most);
  const answers = new Set(answersOf(picture)), own = new Set(at.labels.map(nameOf));
  const before = new Map([...rows].map(([label, { node }]) => [label, node.offsetTop]));
  const nodes = scores.map(({ label, score }) => {
    if (!rows.has(label)) rows.set(label, newBar(label, pick && own.has(label) ? pick : null));
    const row = rows.get(label);
    row.node.classList.toggle("is", answers.has(label));
    row.button?.setAttribute("aria-pressed", label === picked);
    row.num.textContent = rounded(score, large ? 1 : 0);
    if (row.score !== score) {
      const [from, to] = [row.score ?? 0, score].map((share) => ({ transform: `scaleX(${share})` }));
      row.bar.style.transform = to.transform;
      moved(row.bar, from, to);
      row.score = score;
    }
    return row.node;
  });
  for (const label of [...rows.keys()]) if (!scores.some((one) => one.label === label)) rows.delete(label);
  const same = nodes.length === list.children.length && nodes.every((node, place) => node === list.children[place]);
  if (same) return;
  list.replaceChildren(...nodes);
  if (!large) return;
  for (const [label, { node }] of rows) {
    const way = (before.get(label) ?? node.offsetTop) - node.offsetTop;
    if (way) moved(node, { transform: `translateY(${way}px)` }, { transform: "none" });
  }
}

function newBar(label, pick) {
  const text = visible(label), name = el("span", { class: "what", dir: "auto", title: text, text });
  const num = el("span", { class: "num" }), bar = el("i");
  const inside = [name, num, el("span", { class: "track" }, bar)];
  if (!pick) return { node: el("li", { class: "score" }, ...inside), num, bar };
  const of = { class: "score", title: "Where in the picture?", onclick: () => pick(label) };
  const button = el("button", of, ...inside);
  return { node: el("li", {}, button), num, bar, button };
}

// ---- Cards.

const cards = new Map(), CARD_BARS = 5;
let focused = null; // the one card that Tab reaches; arrows go on from there

function drawCards(now) {
  const some = shown.slice(0, pages * PAGE), list = $("cards");
  if (!some.includes(focused)) focused = some[0] ?? null;
  const nodes = some.map((picture) => {
    if (!cards.has(picture.id)) cards.set(picture.id, newCard(picture));
    fillCard(cards.get(picture.id), picture, now);
    return cards.get(picture.id).node;
  });
  const same = nodes.length === list.children.length && nodes.every((node, place) => node === list.children[place]);
  if (!same) {
    const holder = document.activeElement;
    list.replaceChildren(...nodes);
    if (list.contains(holder)) holder.focus({ preventScroll: true });
  }
  $("more").hidden = some.length >= shown.length;
  $("more").firstElementChild.textContent = `Show more (${count(shown.length - some.length)} left)`;
}

function newCard(picture) {
  const img = el("img", { alt: "", draggable: "false" }), none = el("span", { class: "none" });
  const pic = el("button", { class: "pic", onclick: () => open(picture) }, img, none);
  const answer = el("span", { class: "answer", dir: "auto" }), num = el("span", { class: "num" });
  const bars = el("ul", { class: "scores" }), text = baseOf(picture);
  const name = el("p", { class: "name", dir: "ltr", title: visible(picture.name), text });
  const of = { class: "icon off", tabindex: "-1", "aria-label": `Remove ${text}`, title: "Remove" };
  const off = el("button", { ...of, onclick: () => remove([picture]) }, icon("reject"));
  const node = el("li", { class: "card" }, pic, off, el("div", { class: "line" }, answer, num), bars, name);
  node.picture = picture;
  return { node, pic, img, none, answer, num, bars };
}

function fillCard({ node, pic, img, none, answer, num, bars }, picture, now) {
  wantThumb(picture);
  if (picture.thumb && img.getAttribute("src") !== picture.thumb) img.src = picture.thumb;
  img.hidden = !picture.thumb;
  none.textContent = picture.error !== null ? visible(picture.error) : picture.thumb === null ? "no preview" : "";
  none.classList.toggle("error", picture.error !== null);
  node.classList.toggle("waiting", picture.record === null && isAwaited(picture, now));
  pic.setAttribute("aria-label", described(picture));
  pic.tabIndex = picture === focused ? 0 : -1;
  answer.textContent = isAwaited(picture, now) && !picture.record ? "…" : answerText(picture);
  const score = picture.record?.score;
  answer.classList.toggle("none", picture.error !== null || (picture.record !== null && score == null));
  num.textContent = score == null ? "" : rounded(score);
  bars.hidden = picture.error !== null;
  drawBars(bars, picture, { most: CARD_BARS });
}

function focusCard(picture) {
  const before = focused;
  focused = picture;
  if (cards.get(before?.id)) cards.get(before.id).pic.tabIndex = -1;
  const card = cards.get(picture.id);
  card.pic.tabIndex = 0;
  card.pic.focus();
}

$("cards").addEventListener("keydown", (event) => {
  const card = event.target.closest(".card"), place = shown.indexOf(card?.picture);
  if (place < 0) return;
  const across = getComputedStyle($("cards")).gridTemplateColumns.split(" ").length;
  const last = Math.min(shown.length, pages * PAGE) - 1;
  const to = {
    ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place + across, ArrowUp: place - across, Home: 0, End: last,
  }[event.key];
  if (event.key === "Delete") {
    const next = shown[place + 1] ?? shown[place - 1];
    remove([card.picture]);
    if (next && pictures.length >= MANY) focusCard(next);
    else requestAnimationFrame(() => (document.querySelector("#single .away") ?? $("pick")).focus());
  } else if (to !== undefined && to >= 0 && to <= last) focusCard(shown[to]);
  else if (to === undefined) return;
  event.preventDefault();
});

const further = () => { pages += 1; redraw(); };
$("more").firstElementChild.addEventListener("click", further);
const near = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) further(); }, {
  rootMargin: "400px",
});
near.observe($("more"));

// ---- One picture, large: alone on the page, or of many in the dialog.

let opened = null;
function open(picture) {
  opened = picture;
  if (!$("large").open) $("large").showModal();
  draw();
}

function drawDetail(host, picture, now) {
  if (host.firstElementChild?.picture !== picture) host.replaceChildren(newDetail(host, picture));
  const { img, heat, caption, answer, note, bars, hint, place, previous, next } = host.firstElementChild.parts;
  const { error, record } = picture, alone = host === $("single");
  caption.textContent = picture.unseen ? "The browser cannot show this kind of picture." : "";
  answer.textContent = isAwaited(picture, now) && !record ? "…" : answerText(picture);
  answer.classList.toggle("none", error !== null || (record !== null && record.score === null));
  note.textContent = error !== null ? visible(error) : now || !record ? "" : "Add labels to see what fits";
  note.classList.toggle("bad", error !== null);
  const drawn = picture.heat && picture.heat.key === heatKey(picture.heat.label) ? picture.heat : null;
  const pick = (label) => toggleHeat(picture, label);
  drawBars(bars, picture, { most: LISTED, pick, picked: drawn?.label, large: true });
  bars.hidden = error !== null;
  hint.hidden = error !== null || !record;
  hint.textContent = drawn?.note ?? "Choose a label to see where in the picture it is found.";
  heat.hidden = !drawn?.url;
  if (drawn?.url && heat.getAttribute("src") !== drawn.url) heat.src = drawn.url;
  heat.alt = drawn?.url ? `Heat map of ${visible(drawn.label)}` : "";
  img.classList.toggle("behind", !heat.hidden);
  if (alone) return;
  const number = shown.indexOf(picture);
  place.textContent = `${count(number + 1)} of ${count(shown.length)}`;
  previous.disabled = number <= 0;
  next.disabled = number >= shown.length - 1;
}

function newDetail(host, picture) {
  const alone = host === $("single");
  for (const one of pictures) if (one !== picture && one.full) { URL.revokeObjectURL(one.full); one.full = null; }
  picture.full ??= URL.createObjectURL(picture.file);
  const img = el("img", { src: picture.full, alt: baseOf(picture) });
  const heat = el("img", { class: "heat", alt: "", hidden: true });
  img.addEventListener("error", () => { picture.unseen = true; img.hidden = true; redraw(); });
  const caption = el("figcaption", { class: "muted" });
  const answer = el("p", { class: "answer", dir: "auto" }), note = el("p");
  const bars = el("ul", { class: "scores" }), hint = el("p", { class: "muted hint", role: "status" });
  const step = (way) => () => open(shown[shown.indexOf(opened) + way]);
  const place = el("span", { class: "muted" });
  const previous = el("button", { "aria-label": "Previous picture", onclick: step(-1) }, icon("left"));
  const next = el("button", { "aria-label": "Next picture", onclick: step(1) }, icon("right"));
  const close = el("button", { class: "icon", "aria-label": "Close", "data-close": true }, icon("reject"));
  const json = () => copied(JSON.stringify(recordOf(picture)), "JSON copied");
  const off = () => {
    const other = shown[shown.indexOf(picture) + 1] ?? shown[shown.indexOf(picture) - 1];
    remove([picture]);
    if (!alone && other && pictures.length > 1) open(other);
    else $("large").close();
  };
  const acts = el("div", { class: "acts" },
    el("button", { text: "Copy JSON", onclick: json }), el("button", { class: "away", text: "Remove", onclick: off }));
  const steps = el("div", { class: "steps" }, previous, place, next);
  const name = el("h2", { id: "detail-name", dir: "ltr", text: baseOf(picture) });
  const node = el("div", { class: "large" },
    el("figure", {}, el("div", { class: "stage" }, img, heat), caption),
    el("div", { class: "about" },
      el("div", { class: "large-head" }, name, alone ? null : close),
      answer, note, bars, hint,
      el("div", { class: "foot" }, acts, alone ? null : steps)));
  node.picture = picture;
  node.parts = { img, heat, caption, answer, note, bars, hint, place, previous, next };
  return node;
}

$("large").addEventListener("close", () => {
  $("large-body").replaceChildren();
  if (cards.has(opened?.id) && shown.includes(opened)) focusCard(opened);
});
$("large").addEventListener("keydown", (event) => {
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key], next = way && shown[shown.indexOf(opened) + way];
  if (next) open(next);
});

// ---- Heat maps: where in the picture a label is found.

const heatKey = (label) => {
  const now = asked();
  return now && JSON.stringify([now.print, at.templates, at.labels.find((one) => nameOf(one) === label)]);
};

async function toggleHeat(picture, label) {
  const now = asked(), key = heatKey(label);
  if (picture.heat?.url) URL.revokeObjectURL(picture.heat.url);
  const off = picture.heat?.label === label && picture.heat.key === key;
  const name = visible(label), note = `Looking for ${name} in the picture …`;
  const mine = (picture.heat = off || !now ? null : { label, key, url: null, note });
  redraw();
  if (!mine) return undefined;
  const { embeddings, ...request } = now.request;
  try {
    const image = { name: picture.name, data: await encoded(picture.file) };
    const { heat, found } = await ask("v1/explain", { body: JSON.stringify({ ...request, label, image }) });
    if (picture.heat !== mine) return undefined;
    const content = Uint8Array.from(atob(heat), (one) => one.charCodeAt(0));
    mine.url = URL.createObjectURL(new Blob([content], { type: "image/png" }));
    const meaning = `Bright is what speaks for ${name}, dark is what the model does not see.`;
    mine.note = found ? `${meaning} Choose it again to hide the map.` : `Nothing in the picture speaks for ${name}.`;
  } catch (error) {
    if (!(error instanceof Problem)) { mine.note = "The file is gone or has changed: add it again."; return redraw(); }
    mine.note = error.words;
    if (error.gone) lost(error);
  }
  return redraw();
}

// A file in base64, as a data: address, which the server takes.
function encoded(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

// ---- Export.

const recordOf = ({ record, name, error }) => record ?? { path: name, label: null, score: null, scores: [], error };
const isReady = (picture) => picture.record !== null || picture.error !== null;
const exported = () => shown.filter(isReady).map(recordOf);
const printed = (score) => printedWith(score, DECIMALS);

// As clipzs.writers: a row for the answer, and one for each other score that is kept.
function rowsOf(record) {
  if (record.error !== null) return [[record.path, "", "", record.error]];
  const scores = record.labels ? record.scores.filter(({ label }) => record.labels.includes(label)) : record.scores;
  const rows = scores.map(({ label, score }) => [record.path, label, printed(score), ""]);
  const first = [record.path, record.label ?? "", record.score === null ? "" : printed(record.score), ""];
  return [first, ...rows.filter((row) => row.join("\0") !== first.join("\0"))].slice(0, Math.max(1, rows.length));
}

function csv() {
  const rows = [["path", "label", "score", "error"], ...exported().flatMap(rowsOf)];
  const cells = ([path, label, score, error]) => [cell(path), cell(label), score, delimited(error)];
  return rows.map((row) => `${cells(row).join(",")}\n`).join("");
}

// As clipzs.writers.JsonWriter: a record a line.
function json() {
  const { name, digest, precision, device, engine } = modelNow();
  const templates = at.templates ? [at.templates] : ownPrompts();
  const run = { model: name, digest, precision, device, engine, templates, labels: at.labels };
  const lines = exported().map((one) => JSON.stringify(one)).join(",\n");
  return `{"run": ${JSON.stringify(run)},\n"results": [\n${lines}\n]}\n`;
}

// For a POSIX shell.
const quoted = (text) => (/^[\w./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const isPlain = () => at.labels.every((label) => typeof label === "string" || Object.keys(label).length === 1);
const NAMED = 20; // pictures in a command; of more, their folder

// The words of the command, as a shell reads them.
function command() {
  const folders = new Set(pictures.map(({ name }) => (name.includes("/") ? name.split("/")[0] : null)));
  const [folder] = folders, whole = folders.size === 1 && folder !== null && shown.length === pictures.length;
  const names = whole ? [folder] : shown.length > NAMED ? ["."] : shown.map(({ name }) => name);
  const paths = names.map((name) => (name.startsWith("-") ? `./${name}` : name));
  const labels = isPlain() ? ["--labels", joined(at.labels.map(nameOf))] : ["--labels-file", "labels.json"];
  const parts = ["clipzs", "classify", ...paths, ...labels], { id, device, precision } = modelNow();
  const own = offer.options;
  if (at.templates) parts.push("--templates", at.templates);
  else for (const option of ["templates", "template"]) for (const one of own[option]) parts.push(`--${option}`, one);
  if (own.context) parts.push("--context", own.context);
  if (own.language) parts.push("--language", own.language);
  if (own.exact_decode) parts.push("--exact-decode");
  parts.push("--model", id);
  if (precision && precision !== (device?.startsWith("cuda") ? "fp16" : "fp32")) parts.push("--precision", precision);
  if (at.mode !== "one") parts.push(`--${at.mode}`);
  if (at.mode === "multi" && at.threshold !== THRESHOLD) parts.push("--threshold", String(at.threshold));
  if (at.mode !== "multi" && at.least) parts.push("--min-score", String(at.least));
  if (at.top) parts.push("--top-k", String(at.top));
  return parts.map(quoted);
}

function drawSaving() {
  const ready = exported().length;
  const asking = asked() !== null;
  const words = asking ? command() : ["Add labels first."];
  $("command").replaceChildren(...words.flatMap((word) => [el("span", { text: visible(word) }), " "]));
  $("copy-command").disabled = !asking;
  const notes = ["To be run where the pictures are: a page is not told their folder."];
  if (shown.length > NAMED) notes.push("It takes the whole folder, there are too many to name.");
  if (!isPlain()) notes.push("These labels have more than a name: put labels.json beside.");
  $("command-note").textContent = notes.join(" ");
  $("save-labels").hidden = isPlain();
  $("what-saved").textContent = images(ready) + (ready < pictures.length ? `, of ${count(pictures.length)}` : "");
  for (const id of ["save-json", "save-csv", "copy-json"]) $(id).disabled = !ready;
}

async function copied(text, words) {
  try {
    await navigator.clipboard.writeText(text);
    say(words);
  } catch { // not allowed, or not a secure address
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.value = text;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    say(done ? words : "The browser does not allow copying");
  }
}

$("save").addEventListener("click", () => { drawSaving(); $("saving").showModal(); });
$("copy-command").addEventListener("click", () => copied(command().join(" "), "Command copied"));
$("copy-json").addEventListener("click", () => copied(json(), "JSON copied"));
$("save-json").addEventListener("click", () => download("results.json", [json()], "application/json"));
$("save-csv").addEventListener("click", () => download("results.csv", [csv()], "text/csv"));
$("save-labels").addEventListener("click", () => {
  download("labels.json", [JSON.stringify({ labels: at.labels }, null, 1)], "application/json");
});

// ---- All else that is clicked and typed.

$("show").addEventListener("change", () => { show = $("show").value; pages = 1; redraw(); });
$("sure").addEventListener("change", () => { sure = $("sure").value; pages = 1; redraw(); });
$("show-all").addEventListener("click", () => { show = sure = ""; redraw(); });
$("clear").addEventListener("click", () => { remove(pictures); uploads.abort(); $("pick").focus(); });
$("cancel").addEventListener("click", () => { cancelled = true; uploads.abort(); redraw(); $("go-on").focus(); });
$("go-on").addEventListener("click", () => { cancelled = false; go(); });
$("clear-labels").addEventListener("click", () => { set({ labels: [] }); input.focus(); });
$("help").addEventListener("click", () => $("keys").showModal());

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=range], [type=radio]), select, dialog")) return;
  const acts = { l: () => input.focus(), o: () => $("pick").click(), "?": () => $("keys").showModal() };
  const act = Object.hasOwn(acts, event.key.toLowerCase()) && acts[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});
addEventListener("hashchange", () => { at = fromAddress(); if (offer) offered(); changed({ now: true }); });

if (matchMedia("(max-width: 820px)").matches) $("options").open = false;
if (/mac|iphone|ipad/i.test(navigator.platform))
  for (const key of document.querySelectorAll("kbd")) if (key.textContent === "Ctrl") key.textContent = "⌘";
drawSettings();
draw();
connect();
})();
