// The source of a citation or passage: its document's text with the place marked, beside the answer or over it.

import { get, Problem } from "./api.js";
import { $, element, placeOf, say } from "./dom.js";

const AROUND = 4000; // characters shown before and after the place; more on demand
const narrow = matchMedia("(max-width: 61.99rem)");

let shown = null; // {items, at, workspace, opener}
let calls = 0; // a document that comes late is not shown over a later one

// `items` are citations, or one passage; the arrows step through them. `opener` gets the focus back.
export async function openSource(items, at, workspace, opener, focus = true) {
  shown = { items, at, workspace, opener };
  const call = ++calls;
  const item = items[at];
  const alone = item.number ? `Citation ${item.number}` : "Passage";
  $("which").textContent = items.length > 1 ? `${at + 1} of ${items.length}` : alone;
  $("before").hidden = $("after").hidden = items.length < 2;
  $("before").disabled = at === 0;
  $("after").disabled = at === items.length - 1;
  $("source-title").textContent = item.source || "A document";
  $("where").textContent = placeOf(item);
  $("doubt").hidden = item.verified;
  $("text").replaceChildren(element("p", "Opening…", "soft"));
  show(focus);
  try {
    const [document, passage] = await found(item, workspace);
    if (call !== calls) return;
    showText(document.text, item.verified ? item : passage);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (call === calls) $("text").replaceChildren(element("p", error.message, "problem"));
  }
}

// Lay the pane beside the answer, or on a phone over it.
function show(focus) {
  const pane = $("source");
  const modal = pane.matches(":modal");
  if (pane.open && modal !== narrow.matches) pane.close();
  if (!pane.open) {
    document.body.classList.add("beside");
    if (narrow.matches) pane.showModal();
    else pane.setAttribute("open", ""); // show() would move the focus, and the page with it
  }
  if (focus) $("source-title").focus({ preventScroll: true });
}

// Says whether there was one to close; the focus goes back to what opened it, if it is to.
export function closeSource(back = true) {
  const pane = $("source");
  if (!pane.open) return false;
  if (!back) shown.opener = null;
  pane.close();
  return true;
}

export function step(by) {
  if (!shown || !$("source").open) return false;
  const at = shown.at + by;
  if (!(at in shown.items)) return false;
  openSource(shown.items, at, shown.workspace, shown.opener);
  say(`Citation ${at + 1} of ${shown.items.length}`);
  return true;
}

async function found({ passage_id, document_id, start, end }, workspace) {
  const of = `?workspace=${encodeURIComponent(workspace)}`;
  const its = () => get(`api/passages/${encodeURIComponent(passage_id)}${of}`);
  const passage = document_id ? { document_id, start, end } : await its();
  return [await get(`api/documents/${encodeURIComponent(passage.document_id)}${of}`), passage];
}

// The text around a place, with more of it where the reader asks.
function showText(text, place) {
  const [start, end] = unitsOf(text, [place.start, place.end]);
  const box = $("text");
  let from = lineFrom(text, start - AROUND);
  let to = lineTo(text, end + AROUND);
  const before = element("span", text.slice(from, start));
  const mark = element("mark", text.slice(start, end));
  const after = element("span", text.slice(end, to));
  const earlier = element("button", "Show what stands before");
  const later = element("button", "Show what follows");
  earlier.onclick = () => {
    const height = box.scrollHeight;
    from = lineFrom(text, from - 5 * AROUND);
    before.textContent = text.slice(from, start);
    earlier.hidden = from === 0;
    box.scrollTop += box.scrollHeight - height;
  };
  later.onclick = () => {
    to = lineTo(text, to + 5 * AROUND);
    after.textContent = text.slice(end, to);
    later.hidden = to === text.length;
  };
  earlier.hidden = from === 0;
  later.hidden = to === text.length;
  const body = element("p");
  body.append(before, mark, after);
  box.replaceChildren(earlier, body, later);
  box.scrollTop += mark.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 3;
}

// The server counts characters, the browser UTF-16 units: they differ behind an emoji.
export function unitsOf(text, places) {
  if (!/[\ud800-\udfff]/.test(text)) return places;
  const found = [];
  let units = 0;
  let characters = 0;
  for (const place of places) {
    while (characters < place && units < text.length) {
      units += text.codePointAt(units) > 0xffff ? 2 : 1;
      characters += 1;
    }
    found.push(units);
  }
  return found;
}

const lineFrom = (text, at) => (at <= 0 ? 0 : text.lastIndexOf("\n", at) + 1);
function lineTo(text, at) {
  const line = at >= text.length ? -1 : text.indexOf("\n", at);
  return line < 0 || line > at + AROUND ? Math.min(at, text.length) : line;
}

$("close").onclick = () => closeSource();
$("before").onclick = () => step(-1);
$("after").onclick = () => step(1);
$("source").onclose = () => {
  if ($("source").open) return; // this comes late: it was laid elsewhere meanwhile
  document.body.classList.remove("beside");
  if (shown?.opener?.isConnected) shown.opener.focus({ preventScroll: true });
  shown = null;
  calls += 1;
};
narrow.onchange = () => {
  if ($("source").open) openSource(shown.items, shown.at, shown.workspace, shown.opener, false);
};
