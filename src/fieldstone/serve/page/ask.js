// Questions, and the answers as they come.

import { events, Problem, problemFrom } from "./api.js";
import { $, clone, element, placeOf, say } from "./dom.js";
import { filterOf, told } from "./filter.js";
import { legendOf, showHits, sourceOf } from "./found.js";
import { showRate } from "./rate.js";
import { closeSource, openSource } from "./source.js";

const HISTORY = 20; // turns that are sent along; the server looks at the newest that it has room for
const NEAREST = 3;

const conversations = new Map(); // workspace -> {workspace, log, turns, stopper}
let now = null; // the conversation that is shown

export function showConversation(workspace) {
  if (now?.workspace === workspace) return;
  closeSource(false);
  now = conversations.get(workspace) ?? { workspace, log: element("div", "", "log"), turns: [], stopper: null };
  conversations.set(workspace, now);
  $("conversations").replaceChildren(now.log);
  showComposer();
}

function showComposer() {
  const begun = now.turns.length > 0;
  $("start").hidden = begun;
  $("new").hidden = !begun;
  document.body.classList.toggle("begun", begun);
  $("send").textContent = now.stopper ? "Stop" : "Ask";
}

// -- ask

function ask() {
  const question = $("question").value.trim();
  if (now.stopper) return now.stopper.abort();
  if (!question) return $("question").focus();
  const filter = filterOf(now.workspace);
  const turn = { question, filter, reply: null, node: clone("turn"), conversation: now };
  turn.node.querySelector(".question").textContent = question;
  turn.node.querySelector(".only").hidden = !filter;
  turn.node.querySelector(".only span").textContent = told(filter);
  now.turns.push(turn);
  now.log.append(turn.node);
  $("question").value = "";
  grow();
  closeSource(false);
  if (matchMedia("(hover: none)").matches) $("question").blur(); // or a phone's keyboard hides the answer
  run(turn);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  turn.node.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

async function run(turn) {
  const { conversation, node, question, filter } = turn;
  const its = (kind) => node.querySelector(`.${kind}`);
  const { workspace } = conversation;
  const before = conversation.turns.slice(0, conversation.turns.indexOf(turn)).filter(({ reply }) => reply);
  const history = before.slice(-HISTORY).map(({ question, reply }) => ({ question, answer: reply.answer ?? "" }));
  const given = { question, history, workspace, filter, stream: true };
  const stopper = (conversation.stopper = new AbortController());
  showComposer();
  its("failed").hidden = true;
  its("answer").textContent = "";
  doing(turn, "Searching…");
  its("reply").setAttribute("aria-busy", "true");
  try {
    for await (const { event, data } of events("api/ask", given, stopper.signal)) {
      if (event === "asked") showAsked(turn, data.asked);
      else if (event === "hits") {
        showFound(turn, data.hits);
        doing(turn, "Reading what was found…");
      } else if (event === "text") {
        doing(turn, "");
        its("answer").append(data.text);
      } else if (event === "answer") turn.reply = data;
      else if (event === "error") throw problemFrom(data);
    }
    if (!turn.reply) throw new Problem("The connection broke off before the answer was whole. Ask again");
    showReply(turn);
  } catch (error) {
    if (!(error instanceof Problem) && !stopper.signal.aborted) throw error;
    if (stopper.signal.aborted) showFailed(turn, "Stopped.", 0);
    else showFailed(turn, error.message, error.seconds);
  } finally {
    doing(turn, "");
    its("reply").setAttribute("aria-busy", "false");
    conversation.stopper = null;
    showComposer();
  }
}

// -- what comes

function doing({ node }, text) {
  node.querySelector(".doing").textContent = text;
  if (text) say(text);
}

function showAsked({ node, question }, asked) {
  node.querySelector(".asked").hidden = asked.trim() === question;
  node.querySelector(".asked span").textContent = asked;
}

function showFound({ node, conversation }, hits, cited) {
  const details = node.querySelector(".found");
  details.hidden = hits.length === 0;
  details.querySelector(".legend").textContent = legendOf(hits);
  showHits(details.querySelector(".hits"), hits, conversation.workspace, cited);
}

function showReply(turn) {
  const { node, reply, conversation } = turn;
  const cited = new Map(reply.citations.map(({ passage_id, number }) => [passage_id, number]));
  showAsked(turn, reply.asked);
  showFound(turn, reply.hits, cited);
  if (reply.abstained) showNone(turn);
  else showAnswer(turn);
  const seconds = Object.values(reply.timings).reduce((sum, its) => sum + its, 0);
  node.querySelector(".figures").textContent = `confidence ${reply.confidence.toFixed(2)} · ${seconds.toFixed(1)} s`;
  showRate(turn);
  node.querySelector(".after").hidden = false;
  const many = reply.citations.length;
  say(reply.abstained ? "Not in your documents" : `Answered, ${many === 1 ? "one citation" : `${many} citations`}`);
  if (conversation === now && many && wide.matches && !$("ask").hidden && !$("source").open) {
    openSource(itemsOf(turn), 0, conversation.workspace, chipsOf(turn)[0], false);
  }
}

const wide = matchMedia("(min-width: 62rem)");
const chipsOf = ({ node }) => [...node.querySelectorAll(".chip")];

// Citations as the source pane takes them.
function itemsOf({ reply }) {
  const documents = new Map(reply.hits.map(({ passage }) => [passage.id, passage.document_id]));
  return reply.citations.map((its) => ({ ...its, document_id: its.verified ? documents.get(its.passage_id) : null }));
}

// The answer with its citations as chips: where the text has them as [1], else behind it.
function showAnswer(turn) {
  const { node, reply, conversation } = turn;
  const items = itemsOf(turn);
  const known = new Map(items.map((item, at) => [String(item.number), at]));
  const placed = new Set();
  const chip = (at) => {
    const item = items[at];
    const its = element("button", `[${item.number}]`, item.verified ? "chip" : "chip doubtful");
    its.type = "button";
    const place = [item.source, placeOf(item)].filter(Boolean).join(", ");
    its.setAttribute("aria-label", `Citation ${item.number}: ${place}`);
    its.onclick = () => openSource(items, at, conversation.workspace, its);
    placed.add(at);
    return its;
  };
  const numbered = (number) => (known.has(number) ? chip(known.get(number)) : `[${number}]`);
  const parts = reply.text.trim().split(/\[(\d+)\]/).map((part, i) => (i % 2 ? numbered(part) : part));
  const rest = items.map((_, at) => at).filter((at) => !placed.has(at));
  node.querySelector(".answer").replaceChildren(...parts, ...rest.flatMap((at) => [" ", chip(at)]));
  node.querySelector(".cited").replaceChildren(
    ...items.map((item) => {
      const its = element("li", `[${item.number}] `);
      its.append(element("b", item.source), " ", element("span", placeOf(item)));
      its.append(element("q", item.quote));
      return its;
    }),
  );
}

// That the documents do not answer: what comes nearest, and a way to say what was expected.
function showNone(turn) {
  const { node, reply, conversation } = turn;
  const none = node.querySelector(".none");
  node.querySelector(".answer").textContent = "";
  none.hidden = false;
  const near = reply.hits.slice(0, NEAREST);
  none.querySelector("p").textContent = near.length
    ? "Nothing that was found answers this well enough to rely on. This comes nearest:"
    : "Nothing was found that has to do with this.";
  none.querySelector(".near").replaceChildren(
    ...near.map((hit) => {
      const item = element("li");
      const its = element("button", "", "place");
      its.type = "button";
      its.append(element("b", hit.source), " ", element("span", placeOf(sourceOf(hit)), "soft"));
      its.onclick = () => openSource([sourceOf(hit)], 0, conversation.workspace, its);
      const snippet = element("p", hit.passage.text.replace(/\s+/g, " "), "snippet");
      snippet.dir = "auto";
      item.append(its, snippet);
      return item;
    }),
  );
}

function showFailed(turn, message, seconds) {
  const failed = turn.node.querySelector(".failed");
  const again = failed.querySelector("button");
  failed.querySelector("p").textContent = message;
  failed.hidden = false;
  again.onclick = () => !turn.conversation.stopper && run(turn);
  let left = Math.ceil(seconds);
  const tick = () => {
    again.disabled = left > 0;
    again.textContent = left > 0 ? `Ask again in ${left} s` : "Ask again";
    if (left-- > 0) setTimeout(tick, 1000);
  };
  tick();
}

// -- the composer, and keys

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

$("composer").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
$("question").oninput = grow;
$("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!now.stopper) ask();
};
$("new").onclick = () => {
  now.stopper?.abort();
  conversations.delete(now.workspace);
  const { workspace } = now;
  now = null;
  showConversation(workspace);
  $("question").focus();
  say("A new conversation");
};

// Move the focus from chip to chip of an answer.
export function stepChips(by) {
  const chips = [...(document.activeElement?.closest("article")?.querySelectorAll(".chip") ?? [])];
  const at = chips.indexOf(document.activeElement);
  if (at < 0 || !chips[at + by]) return false;
  chips[at + by].focus();
  return true;
}
