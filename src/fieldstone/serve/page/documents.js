// The documents of a workspace: listed, added, removed, searched.

import { get, post, Problem, request } from "./api.js";
import { $, during, element, say, sentence } from "./dom.js";
import { filterOf } from "./filter.js";
import { showHits } from "./found.js";

const PAGE = 100;
const SOON = 700; // milliseconds until the list is looked at again while something is worked in

let workspace = "";
let upto = ""; // the last source that is listed
let timer = 0;
const uploads = new Map(); // source -> what the page says of it, until it can be asked about

const query = (more = {}) => `?${new URLSearchParams({ workspace, ...more })}`; // of the workspace that is shown

export function showDocuments(name) {
  if (name !== workspace) {
    workspace = name;
    upto = "";
    $("list").tBodies[0].replaceChildren();
    $("uploads").replaceChildren();
    uploads.clear();
    clearSearch();
  }
  refresh();
}

export function leaveDocuments() {
  clearTimeout(timer);
}

// Read the list anew as far as it is shown, and again as long as something is worked in.
async function refresh() {
  clearTimeout(timer);
  const asked = workspace;
  let rows = [];
  let page;
  try {
    do {
      page = await get(`api/documents${query({ after: rows.at(-1)?.source ?? "", limit: PAGE })}`);
      rows = [...rows, ...page.documents];
    } while (page.next && rows.at(-1).source < upto);
  } catch (error) {
    return asked === workspace && warn(error);
  }
  if (asked !== workspace) return;
  warn(null);
  showRows(rows, page.next);
  showProgress(page.progress);
  showUploads(rows, page.progress);
  const working = page.progress || rows.some(({ state }) => state === "indexing");
  if (working && !$("documents").hidden) timer = setTimeout(refresh, SOON);
}

function warn(error) {
  if (error && !(error instanceof Problem)) throw error;
  $("warning").hidden = !error;
  $("warning").textContent = error?.message ?? "";
}

// -- the list

const kept = new Map(); // source -> what its row was made of, and the row: a row that is the same stays

function showRows(rows, next) {
  const body = $("list").tBodies[0];
  const made = rows.map((file) => {
    const key = JSON.stringify([workspace, file]);
    const before = kept.get(file.source);
    if (before?.key === key) return before.row;
    const row = rowOf(file);
    kept.set(file.source, { key, row });
    return row;
  });
  if (made.length !== body.rows.length || made.some((row, i) => row !== body.rows[i])) body.replaceChildren(...made);
  upto = rows.at(-1)?.source ?? "";
  $("list").hidden = rows.length === 0;
  $("empty").hidden = rows.length > 0;
  $("more").hidden = !next;
}

function rowOf(file) {
  const row = element("tr");
  const name = element("th");
  name.scope = "row";
  name.append(element("span", file.source));
  const told = [...(file.reason ? [file.reason] : []), ...file.warnings];
  if (file.state === "indexing") name.append(element("span", "being worked in", "state"));
  if (file.state === "unread") row.className = "unread";
  for (const reason of told) name.append(element("span", sentence(reason), "state problem"));
  const passages = file.state === "unread" ? "not read" : file.passages.toLocaleString("en");
  const cells = [file.type, sizeOf(file.bytes), passages];
  const last = element("td");
  const button = element("button", "Remove", "plain");
  button.type = "button";
  button.setAttribute("aria-label", `Remove ${file.source}`);
  button.onclick = () => remove(file.source, button);
  last.append(button);
  row.append(name, ...cells.map((text, i) => element("td", text, i ? "number" : "")), last);
  if (file.state !== "unread") row.children[3].dataset.unit = file.passages === 1 ? "passage" : "passages";
  return row;
}

function sizeOf(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const kilo = bytes / 1000;
  return kilo < 1000 ? `${Math.round(kilo)} kB` : `${(kilo / 1000).toFixed(1)} MB`;
}

async function remove(source, button) {
  const uploaded = source.startsWith("uploads/");
  const sure = await confirmed(
    `Remove ${source}?`,
    uploaded
      ? "The file that was added is deleted. No answer will cite it any more."
      : "No answer will cite it any more. The file itself stays in its folder, and comes back when that is read again.",
  );
  if (!sure) return;
  try {
    await during(button, () => request(`api/documents${query({ source })}`, { method: "DELETE" }));
    say(`Removed ${source}`);
    uploads.get(source)?.remove();
    uploads.delete(source);
    $("documents-title").focus({ preventScroll: true });
    await refresh();
  } catch (error) {
    warn(error);
  }
}

function confirmed(title, why) {
  $("sure-title").textContent = title;
  $("sure-why").textContent = why;
  const dialog = $("sure");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => done(dialog.returnValue === "yes");
  });
}

// -- what is worked in

const STEPS = { read: "Reading", split: "Splitting", embed: "Indexing", load: "Loading" };

function showProgress(progress) {
  $("indexing").classList.toggle("idle", !progress);
  if (!progress) return;
  const { step, done, total, unit, problem } = progress;
  const bar = $("indexing").querySelector("progress");
  const doing = step ? (STEPS[step] ?? "Working") : "Waiting to be worked in";
  const at = total ? `${doing}: ${done} of ${total} ${unit}` : `${doing}…`;
  const text = problem ? sentence(problem) : at;
  $("indexing").classList.toggle("problem", Boolean(problem));
  if ($("indexing").firstElementChild.textContent !== text) $("indexing").firstElementChild.textContent = text;
  bar.hidden = Boolean(problem);
  if (total) {
    bar.max = total;
    bar.value = done;
  } else bar.removeAttribute("value");
}

// -- files that are added: each by itself, so that one that is refused does not hold up the others

async function upload(files) {
  const into = workspace;
  const address = `api/documents${query()}`;
  for (const file of files) {
    const item = element("li");
    item.append(element("b", file.name), " ", element("span", "is sent…", "soft"));
    if (into === workspace) $("uploads").append(item);
    const accepted = await send(file, address, item);
    if (into === workspace) for (const source of accepted) uploads.set(source, item);
  }
  if (into === workspace) refresh();
}

// The sources that the files have now.
async function send(file, address, item) {
  const form = new FormData();
  form.append("file", file);
  try {
    const { accepted } = await (await request(address, { method: "POST", form })).json();
    tell(item, "is kept, and will be read");
    return accepted;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    tell(item, error.message, "problem");
    return [];
  }
}

function tell(item, text, kind = "soft") {
  const its = item.querySelector("span");
  its.textContent = text;
  its.className = kind;
}

function showUploads(rows, progress) {
  const listed = new Map(rows.map((file) => [file.source, file]));
  for (const [source, item] of uploads) {
    const file = listed.get(source);
    if (progress?.waiting.includes(source) || file?.state === "indexing" || (progress && !file)) continue;
    if (!file) tell(item, "is taken in; it stands further down the list");
    else if (file.state === "unread") tell(item, `could not be read: ${file.reason}`, "problem");
    else tell(item, "can be asked about", "good");
    say(file?.state === "unread" ? `${source} could not be read` : `${source} is ready`);
    uploads.delete(source);
  }
}

$("files").onchange = () => {
  upload([...$("files").files]);
  $("files").value = "";
};
const view = $("documents");
view.ondragover = (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("drop").classList.add("over");
};
view.ondragleave = (event) => {
  if (!view.contains(event.relatedTarget)) $("drop").classList.remove("over");
};
view.ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const dropped = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
  const folders = dropped.filter((its) => its.webkitGetAsEntry()?.isDirectory);
  if (folders.length) say("A folder cannot be added: drop the files in it");
  upload(dropped.filter((its) => !folders.includes(its)).map((its) => its.getAsFile()));
};
$("more").onclick = () => {
  upto += "\u{10ffff}"; // one page more than is shown
  during($("more"), refresh);
};

// -- search

$("search").onsubmit = async (event) => {
  event.preventDefault();
  const question = $("words").value.trim();
  if (!question) return clearSearch();
  const button = $("search").querySelector("button");
  const given = { question, workspace, k: 20, filter: filterOf(workspace) };
  try {
    const { hits, seconds } = await during(button, () => post("api/search", given));
    warn(null);
    $("library").hidden = true;
    $("passages").hidden = false;
    $("searched").textContent = hits.length
      ? `${hits.length} passages, the best first, in ${(seconds * 1000).toFixed(0)} ms`
      : "Nothing was found. Other words may help, or documents that are not here yet.";
    showHits($("passages").querySelector(".hits"), hits, workspace);
  } catch (error) {
    warn(error);
  }
};
function clearSearch() {
  $("words").value = "";
  $("passages").hidden = true;
  $("library").hidden = false;
}
$("cleared").onclick = () => {
  clearSearch();
  $("words").focus();
};
