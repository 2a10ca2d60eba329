// The page: two views, the workspaces, and the keys. It asks nothing of any other server.

import { get, Problem } from "./api.js";
import { showConversation, stepChips } from "./ask.js";
import { leaveDocuments, showDocuments } from "./documents.js";
import { $, element } from "./dom.js";
import { closeSource, step } from "./source.js";

let workspace = "";

function showView() {
  const documents = location.hash === "#documents";
  const changed = $("documents").hidden === documents;
  $("ask").hidden = documents;
  $("documents").hidden = !documents;
  document.title = documents ? `Documents · ${workspace}` : `Ask ${workspace}`;
  for (const link of document.querySelectorAll("nav a")) {
    if ((link.hash === "#documents") === documents) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (changed) closeSource(false);
  document.body.classList.toggle("asking", !documents);
  showConversation(workspace);
  if (documents) showDocuments(workspace);
  else leaveDocuments();
  return changed;
}

async function start() {
  let workspaces;
  try {
    ({ workspaces } = await get("api/workspaces"));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    $("warning").replaceChildren(error.message, " ");
    const again = element("button", "Try again");
    again.onclick = start;
    $("warning").append(again);
    $("warning").hidden = false;
    return;
  }
  $("warning").hidden = true;
  const names = workspaces.map(({ name }) => name);
  workspace = names[0];
  $("workspace").replaceChildren(...names.map((name) => element("option", name)));
  $("workspace").hidden = names.length < 2;
  $("name").textContent = names.length < 2 ? workspace : "";
  document.body.classList.add("ready");
  showView();
  if (!$("ask").hidden && matchMedia("(hover: hover)").matches) $("question").focus();
}

$("workspace").onchange = () => {
  workspace = $("workspace").value;
  closeSource(false);
  showView();
};
window.addEventListener("hashchange", () => {
  if (!workspace) return;
  const first = location.hash === "#documents" ? "documents-title" : "question";
  if (showView()) $(first).focus({ preventScroll: true });
});
$("keys").onclick = () => $("help").showModal();

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape" && !document.querySelector("dialog:modal")) {
    if (closeSource()) event.preventDefault();
    else if (typing) event.target.blur();
    return;
  }
  if (typing || document.querySelector("dialog:modal:not(#source)")) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) {
    if (step(by) || stepChips(by)) event.preventDefault();
  } else if (event.key === "/" && !document.querySelector("dialog:modal")) {
    event.preventDefault();
    ($("ask").hidden ? $("words") : $("question")).focus();
  } else if (event.key === "?") {
    event.preventDefault();
    $("help").showModal();
  }
});

start();
