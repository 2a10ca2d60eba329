// What people say of an answer: thumbs, and what it should have been. The last word counts.

import { post, Problem } from "./api.js";
import { during } from "./dom.js";

export function showRate({ node, reply }) {
  const [good, bad, form] = [".good", ".bad", ".correct"].map((its) => node.querySelector(its));
  const field = form.querySelector("textarea");
  const label = (button, text) => {
    button.title = text;
    button.setAttribute("aria-label", text);
  };
  node.querySelector(".rate").setAttribute("aria-label", "Is this right?");
  label(good, reply.abstained ? "Right: it is not in the documents" : "Right");
  label(bad, reply.abstained ? "Wrong: it is in the documents" : "Wrong");
  const wanted = reply.abstained ? "Which answer did you expect?" : "What is the right answer?";
  form.querySelector("span").textContent = wanted;
  const tell = async (button, feedback, thanks) => {
    const told = node.querySelector(".thanks");
    try {
      await during(button, () => post("api/feedback", { answer_id: reply.id, ...feedback }));
      good.setAttribute("aria-pressed", String(feedback.good));
      bad.setAttribute("aria-pressed", String(!feedback.good));
      told.textContent = thanks;
      return true;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      told.textContent = error.message;
      return false;
    }
  };
  good.onclick = async () => {
    if (await tell(good, { good: true }, "Thank you.")) form.hidden = true;
  };
  bad.onclick = async () => {
    form.hidden = false;
    field.focus();
    await tell(bad, { good: false }, "");
  };
  node.querySelector(".expect").onclick = bad.onclick;
  form.onsubmit = async (event) => {
    event.preventDefault();
    const correction = field.value.trim();
    if (!correction) return field.focus();
    if (!(await tell(form.querySelector("button"), { good: false, correction }, "Thank you."))) return;
    form.hidden = true;
    bad.focus();
  };
}
