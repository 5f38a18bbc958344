"use strict";
// What the pages share. It comes before the script of each of them, in the same element.

const $ = (id) => document.getElementById(id);

// ---- Elements and words. Text of the data gets in by textContent and attributes alone.

function el(tag, of = {}, ...children) {
  const drawn = tag.startsWith("svg:") ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(drawn, tag.replace("svg:", ""));
  for (const [key, value] of Object.entries(of)) {
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function icon(name) {
  return el("svg:svg", { "aria-hidden": "true" }, el("svg:use", { href: `#i-${name}` }));
}

// As clipzs.paths.printable: what would not be seen, or would turn the text around, as escapes.
function visible(text) {
  return text.replace(/[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\p{Cs}/gu, (one) => {
    const code = one.charCodeAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) return "\\x" + (code - 0xdc00).toString(16);
    return code < 256 ? "\\x" + code.toString(16).padStart(2, "0") : "\\u" + code.toString(16);
  });
}

const count = (number) => number.toLocaleString("en");
const images = (number) => `${count(number)} ${number === 1 ? "image" : "images"}`;
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

// As clipzs.results.printed.
function printedWith(score, decimals) {
  let size = Math.abs(score), more = 0;
  while (size < 0.01 && more < 5) { size *= 10; more += 1; }
  return score.toFixed(decimals + more);
}

let toasting = 0;
function say(text) {
  $("said").textContent = text;
  $("toast").textContent = text;
  $("toast").classList.add("on");
  clearTimeout(toasting);
  toasting = setTimeout(() => $("toast").classList.remove("on"), 2500);
}

// ---- What this browser keeps.

function stored(key, value, unkept = () => {}) {
  try {
    if (value === undefined) return localStorage.getItem(key);
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    if (value) unkept();
  }
  return null;
}

// ---- Downloads.

// A file name's bytes: those that are not UTF-8 are held as lone surrogates.
function bytes(text) {
  const parts = text.split(/([\udc80-\udcff])/u), coder = new TextEncoder(), chunks = [];
  parts.forEach((part, place) => {
    chunks.push(place % 2 ? Uint8Array.of(part.charCodeAt(0) - 0xdc00) : coder.encode(part));
  });
  return chunks;
}

function download(name, chunks, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob(chunks, { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// As clipzs.formulas.protected: what a spreadsheet would run is text behind an apostrophe.
const FORMULA = /^('*[\s\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n])/;
const cell = (text) => delimited(FORMULA.test(text) ? `'${text}` : text);
const delimited = (text) => (/[,"\r\n;\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

// ---- Dialogs and colours.

for (const box of document.querySelectorAll("dialog"))
  box.addEventListener("click", ({ target }) => {
    if (target === box || target.closest("[data-close]")) box.close();
  });

const THEMES = ["light dark", "light", "dark"];
function theme(wanted) {
  const scheme = THEMES.includes(wanted) ? wanted : THEMES[0];
  document.documentElement.style.colorScheme = scheme;
  const label = `Colours: ${{ light: "light", dark: "dark" }[scheme] ?? "as the system"}`;
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
}
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.style.colorScheme) + 1) % THEMES.length];
  stored("clipzs-theme", next);
  theme(next);
});

theme(stored("clipzs-theme"));
