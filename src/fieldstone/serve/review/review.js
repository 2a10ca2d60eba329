"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const sheet = JSON.parse($("sheet").textContent);
  const PLACE = `fieldstone-review:${sheet.library}`;
  let state = { reviewer: "", decisions: {} }; // id -> {take, answer, passage, question}
  let unkept = false; // decisions that are in no storage

  try {
    const kept = JSON.parse(localStorage.getItem(PLACE) ?? "null");
    if (kept && typeof kept.decisions === "object") state = kept;
  } catch {
    // nothing is kept here
  }
  const ids = new Set(sheet.items.map((item) => item.id));
  for (const id of Object.keys(state.decisions)) if (!ids.has(id)) delete state.decisions[id]; // read in before

  function keep() {
    try {
      localStorage.setItem(PLACE, JSON.stringify(state));
      unkept = false;
    } catch {
      unkept = true;
      warn("This browser keeps nothing: export your decisions before you close the page.");
    }
    const many = Object.keys(state.decisions).length;
    $("done").textContent = `${many} of ${sheet.items.length}`;
    $("progress").max = sheet.items.length || 1;
    $("progress").value = many;
    const open = sheet.items.filter((item) => item.clear && !state.decisions[item.id]).length;
    $("clear").hidden = !open;
    $("clear").textContent = `Take the ${open} that are clear`;
  }
  function element(tag, text = "", className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function warn(text) {
    $("warning").textContent = text;
    $("warning").hidden = !text;
  }
  let fading = 0;
  function say(text) {
    $("said").textContent = text;
    $("said").classList.remove("gone");
    clearTimeout(fading);
    fading = setTimeout(() => $("said").classList.add("gone"), 2500);
  }

  // -- one answer

  const shown = {}; // id -> what shows the decision anew

  function card(item, number) {
    const made = element("article");
    const name = `item-${number}`;
    made.append(element("p", `${item.why} · ${item.day}`, "soft"));
    const title = element("h2", item.question);
    title.id = name;
    made.setAttribute("aria-labelledby", name);
    made.append(title);
    made.append(element("p", item.answer || "(nothing)", item.abstained || !item.answer ? "answer none" : "answer"));
    if (item.said) {
      const [good, correction, comment, who] = item.said;
      const parts = [`${who || "Somebody"} says: ${good ? "thumbs up" : "thumbs down"}`];
      if (correction) parts.push(`Right would be: ${correction}`);
      if (comment) parts.push(comment);
      made.append(element("p", parts.join("\n"), "remark"));
    }

    const field = (what, label, rows) => {
      const area = element("textarea");
      area.id = `${name}-${what}`;
      area.rows = rows;
      area.maxLength = sheet.characters;
      const its = element("label", label);
      its.htmlFor = area.id;
      return [its, area];
    };
    const asked = item.asked ? field("asked", "Understood as: put it right for one who has not heard the conversation", 1) : [];
    const [label, answer] = field("answer", "The right answer, in the words of the passage where you can", 2);
    const where = element("fieldset");
    where.append(element("legend", "It stands in"));
    const radios = [...item.passages, null].map((passage) => {
      const choice = element("label", "", "choice");
      const radio = element("input");
      radio.type = "radio";
      radio.name = `${name}-passage`;
      radio.value = passage ? passage.id : "";
      const beside = element("span");
      if (passage) {
        beside.append(element("small", passage.cited ? `${passage.place} (cited)` : passage.place));
        const text = element("span", "", "text");
        text.tabIndex = 0;
        for (const [piece, quoted] of passage.pieces) text.append(quoted ? element("mark", piece) : piece);
        beside.append(text);
      } else {
        beside.append("nowhere: the documents do not answer this question");
      }
      choice.append(radio, beside);
      where.append(choice);
      return radio;
    });
    made.append(...asked, label, answer, where);

    const row = element("div", "", "row");
    const take = element("button", "Take");
    const thrown = element("button", "Throw away");
    const later = element("button", "Leave open");
    for (const button of [take, thrown, later]) {
      button.type = "button";
      row.append(button);
    }
    made.append(row);

    const fault = element("p", "", "doubt");
    fault.setAttribute("role", "alert");
    fault.hidden = true;
    row.before(fault);

    const chosen = () => radios.find((radio) => radio.checked);
    function fill() {
      const its = state.decisions[item.id];
      const [text, passage] = its?.take ? [its.answer, its.passage] : item.proposed;
      answer.value = text;
      if (item.asked) asked[1].value = (its?.take && its.question) || item.asked;
      const nowhere = its?.take ? passage === null : item.abstained && Boolean(item.said?.[0]);
      for (const radio of radios) radio.checked = passage === null ? nowhere && !radio.value : radio.value === passage;
      show();
    }
    function show() {
      const its = state.decisions[item.id];
      made.className = !its ? "" : its.take ? "taken" : "thrown";
      take.setAttribute("aria-pressed", String(Boolean(its?.take)));
      thrown.setAttribute("aria-pressed", String(its?.take === false));
      later.disabled = !its;
    }
    function decide(decision) {
      if (decision) state.decisions[item.id] = decision;
      else delete state.decisions[item.id];
      fault.hidden = true;
      keep();
      show();
    }
    function taken() {
      const passage = chosen();
      const text = answer.value.trim();
      fault.textContent = !passage ? "Say which passage the answer stands in." : passage.value && !text ? "Write the right answer." : "";
      fault.hidden = !fault.textContent;
      if (!fault.hidden) return false;
      const question = item.asked ? asked[1].value.trim() : "";
      decide({ take: true, answer: passage.value ? text : "", passage: passage.value || null, question });
      return true;
    }
    take.onclick = () => taken() && say("Taken");
    thrown.onclick = () => {
      decide({ take: false, answer: "", passage: null, question: "" });
      say("Thrown away");
    };
    later.onclick = () => {
      decide(null);
      say("Left open");
    };
    const edited = () => {
      if (state.decisions[item.id]?.take && !taken()) decide(null);
    };
    for (const area of [asked[1], answer]) if (area) area.oninput = edited;
    where.onchange = edited;
    shown[item.id] = { fill, taken };
    fill();
    return made;
  }

  // -- all of them

  $("workspace").textContent = sheet.workspace;
  $("name").value = state.reviewer;
  $("name").oninput = () => {
    state.reviewer = $("name").value.trim();
    keep();
  };
  $("clear").onclick = () => {
    const open = sheet.items.filter((item) => item.clear && !state.decisions[item.id]);
    const many = open.filter((item) => shown[item.id].taken()).length;
    say(`${many} taken`);
  };
  $("export").onclick = () => {
    if (!state.reviewer) {
      warn("Say who you are, so that it can be known who decided.");
      $("name").focus();
      return;
    }
    warn("");
    const { reviewer, decisions } = state;
    const saved = new Date().toISOString();
    const file = { fieldstone: "review", version: 1, library: sheet.library, reviewer, saved, decisions };
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
    link.download = `review-${reviewer.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unkept = false;
    say(`Exported: ${link.download}`);
  };
  window.addEventListener("beforeunload", (event) => {
    if (unkept) event.preventDefault();
  });
  $("items").append(...sheet.items.map(card));
  keep();
})();
