"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const sheet = JSON.parse($("sheet").textContent);
  const names = sheet.criteria.map(([name]) => name);
  // What is kept: of one answer 0 no, 1 partly, 2 yes; of two -1 the first of the file is better, 0 a tie,
  // 1 the second; null: the grader cannot say.
  const levels = sheet.pairs ? [-1, 0, 1] : [0, 1, 2];
  const words = sheet.pairs ? ["A", "tie", "B"] : ["no", "partly", "yes"];
  const letters = sheet.pairs ? ["a", "t", "b"] : ["n", "p", "y"];

  let state = null; // {grader, copy, saved, at, grades: {item: {criterion: grade}}, remarks: {item: text}}
  let order = []; // the items as this grader sees them
  let now = 0; // the criterion that a key grades
  let done = []; // for undo: [item, criterion, grade before]
  let unkept = false; // grades that are in no storage

  // -- chance, the same for the same name on every machine

  function hash(text) {
    let h = 2166136261;
    for (const letter of text) h = Math.imul(h ^ letter.codePointAt(0), 16777619);
    h = Math.imul(h ^ (h >>> 16), 2246822507);
    h = Math.imul(h ^ (h >>> 13), 3266489909);
    return (h ^ (h >>> 16)) >>> 0;
  }
  const plainName = (name) => name.trim().replace(/\s+/g, " ").toLowerCase();
  const drawn = (what, item) => hash([what, sheet.id, plainName(state.grader), item.id].join("|"));
  const turned = (item) => sheet.pairs && drawn("side", item) % 2 === 1;

  // -- what is kept

  const PLACE = `fieldstone-grades:${sheet.id}:`;

  function keptStates() {
    try {
      return Object.keys(localStorage)
        .filter((key) => key.startsWith(PLACE))
        .map((key) => JSON.parse(localStorage.getItem(key)));
    } catch {
      return [];
    }
  }
  function keep() {
    state.saved = new Date().toISOString();
    try {
      localStorage.setItem(PLACE + plainName(state.grader), JSON.stringify(state));
      unkept = false;
    } catch {
      unkept = true;
    }
    warn(unkept ? "This browser keeps nothing: export your grades before you close the page." : "");
  }
  function newCopy() {
    return Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("");
  }
  const graded = (item) => state.grades[item.id] ?? {};
  const complete = (item) => names.every((name) => name in graded(item));

  // -- begin

  function begin(kept) {
    state = kept;
    order = [...sheet.items].sort((a, b) => drawn("order", a) - drawn("order", b) || (a.id < b.id ? -1 : 1));
    done = [];
    state.at = Math.min(Math.max(state.at ?? 0, 0), order.length - 1);
    keep();
    $("export").hidden = false;
    show();
  }
  function start() {
    const count = sheet.items.length;
    const many = count === 1 ? "one question" : `${count} questions`;
    $("task").textContent = sheet.pairs
      ? `You see ${many}, each with two answers and the passages that they cite. Say which answer is better in ` +
        `${names.length} ways, or that it is a tie.`
      : `You see ${many}, each with an answer and the passage that it cites. Say whether the answer is ` +
        `${names.slice(0, -1).join(", ")} and ${names.at(-1)}.`;
    for (const kept of keptStates()) {
      const many = sheet.items.filter((item) => names.every((name) => name in (kept.grades[item.id] ?? {}))).length;
      const button = element("button", `Go on as ${kept.grader}: ${many} of ${count} graded`, "go");
      button.type = "button";
      button.onclick = () => begin(kept);
      $("kept").append(button);
    }
  }
  $("begin").onsubmit = (event) => {
    event.preventDefault();
    const grader = $("name").value.trim().replace(/\s+/g, " ");
    if (!grader) return;
    const known = keptStates().find((kept) => plainName(kept.grader) === plainName(grader));
    begin(known ?? { grader, copy: newCopy(), saved: "", at: 0, grades: {}, remarks: {} });
  };
  $("import").onchange = async () => {
    const file = $("import").files[0];
    if (!file) return;
    let given = null;
    try {
      given = JSON.parse(await file.text());
    } catch {
      // told below
    }
    if (given?.fieldstone !== "grades" || typeof given.grader !== "string" || !given.grader.trim()) {
      return warn(`${file.name} holds no exported grades.`);
    }
    if (given.sheet !== sheet.id) return warn(`${file.name} holds the grades of another page.`);
    const kept = { grader: given.grader, copy: String(given.copy), saved: "", at: 0, grades: {}, remarks: {} };
    const mine = keptStates().find((other) => plainName(other.grader) === plainName(given.grader));
    const both = mine && mine.saved > given.saved ? [given, mine] : mine ? [mine, given] : [given];
    for (const item of sheet.items) {
      for (const its of both) {
        for (const name of names) {
          const grade = its.grades?.[item.id]?.[name];
          if (grade === null || levels.includes(grade)) (kept.grades[item.id] ??= {})[name] = grade;
        }
        const remark = its.remarks?.[item.id];
        if (typeof remark === "string") kept.remarks[item.id] = remark;
      }
    }
    warn("");
    begin(kept);
    const open = order.findIndex((item) => !complete(item));
    go(open < 0 ? order.length : open);
  };

  // -- show

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
    fading = setTimeout(() => $("said").classList.add("gone"), 1600);
  }
  function show() {
    const ended = state.at >= order.length;
    const many = order.filter(complete).length;
    $("start").hidden = true;
    $("grading").hidden = ended;
    $("end").hidden = !ended;
    $("who").textContent = state.grader;
    $("done").textContent = `${many} of ${order.length}`;
    $("progress").max = order.length || 1;
    $("progress").value = many;
    window.scrollTo(0, 0);
    if (ended) return showEnd(many);
    const item = order[state.at];
    $("grading").classList.toggle("two", sheet.pairs);
    $("place").textContent = `Question ${state.at + 1} of ${order.length}`;
    $("question").textContent = item.question;
    $("expected").open = false;
    $("expected").lastElementChild.replaceChildren(expected(item));
    const answers = turned(item) ? [...item.answers].reverse() : item.answers;
    $("answers").replaceChildren(...answers.map((answer, i) => card(answer, sheet.pairs ? `Answer ${words[2 * i]}` : "Answer")));
    $("remark").value = state.remarks[item.id] ?? "";
    const open = names.findIndex((name) => !(name in graded(item)));
    now = open < 0 ? 0 : open;
    showGrades();
    $("question").focus({ preventScroll: true });
  }
  function showEnd(many) {
    const left = order.length - many;
    $("thanks").textContent = left ? `${many} of ${order.length} graded` : `All ${order.length} graded. Thank you!`;
    $("left").textContent = left
      ? "You may export what there is and go on later, here or elsewhere."
      : "Export the grades and send the file to whoever asked you.";
    $("resume").hidden = !left;
    $("finish").classList.toggle("go", !left);
    $("thanks").focus({ preventScroll: true });
  }
  function expected(item) {
    if (!item.expected.length) return element("p", "The documents do not answer this: to say so is right.");
    if (item.expected.length === 1) return element("p", item.expected[0]);
    const list = element("ul");
    list.append(...item.expected.map((text) => element("li", text)));
    return list;
  }
  function card(answer, title) {
    const made = element("article");
    made.append(element("h2", title));
    made.append(element("p", answer.text || "(nothing)", answer.abstained || !answer.text ? "answer none" : "answer"));
    for (const cited of answer.cited) made.append(citation(cited));
    if (!answer.cited.length && !answer.abstained) {
      const none = element("div", "", "cited");
      none.append(element("p", "It cites nothing.", "doubt"));
      made.append(none);
    }
    return made;
  }
  function citation(cited) {
    const made = element("figure", "", "cited");
    made.append(element("figcaption", cited.place ? `Cited from ${cited.place}` : "Cited"));
    const held = cited.pieces.some(([, quoted]) => quoted);
    if (!held && cited.quote) {
      const why = cited.pieces.length ? "These words do not stand in the passage:" : "The passage is not at hand. Its words:";
      made.append(element("p", `${why} “${cited.quote}”`, "doubt"));
    }
    const passage = element("blockquote");
    for (const [text, quoted] of cited.pieces) {
      const flowing = text.replace(/[ \t]*\n[ \t]*(?=\p{Ll})/gu, " "); // lines that a file broke at 80 columns
      passage.append(quoted ? element("mark", flowing) : flowing);
    }
    made.append(passage);
    return made;
  }
  function showGrades() {
    const item = order[state.at];
    const its = graded(item);
    $("criteria").replaceChildren(
      ...sheet.criteria.map(([name, question], i) => {
        const set = element("fieldset", "", i === now ? "now" : "");
        set.tabIndex = -1;
        const legend = element("legend");
        legend.append(element("b", name), " ", element("span", question));
        const choices = element("div", "", "choices");
        const offered = levels.map((level, k) => [turned(item) ? -level : level, words[k], String(k + 1)]);
        for (const [level, word, key] of [...offered, [null, "can’t say", "0"]]) {
          const button = element("button", word, level === null ? "cannot" : "");
          button.type = "button";
          if (i === now) button.append(" ", element("kbd", key));
          button.setAttribute("aria-pressed", String(name in its && its[name] === level));
          button.onclick = () => grade(i, level, word);
          choices.append(button);
        }
        set.append(legend, choices);
        return set;
      }),
    );
    $("back").disabled = state.at === 0;
    $("undo").disabled = !done.length;
    $("next").classList.toggle("go", complete(item));
  }

  // -- do

  function grade(criterion, level, word) {
    const item = order[state.at];
    const name = names[criterion];
    done.push([item.id, name, graded(item)[name]]);
    (state.grades[item.id] ??= {})[name] = level;
    keep();
    const open = names.findIndex((other) => !(other in graded(item)));
    now = open < 0 ? criterion : open;
    const many = order.filter(complete).length;
    $("done").textContent = `${many} of ${order.length}`;
    $("progress").value = many;
    showGrades();
    if (open < 0) $("next").focus({ preventScroll: true });
    else aim();
    say(`${name}: ${word}`);
  }
  function aim() {
    const set = $("criteria").children[now];
    set.focus({ preventScroll: true });
    set.scrollIntoView({ block: "nearest" });
  }
  function choose(step) {
    now = Math.min(Math.max(now + step, 0), names.length - 1);
    showGrades();
    aim();
  }
  function go(to) {
    state.at = Math.min(Math.max(to, 0), order.length);
    keep();
    show();
  }
  function undo() {
    const last = done.pop();
    if (!last) return;
    const [id, name, before] = last;
    if (before === undefined) delete state.grades[id][name];
    else state.grades[id][name] = before;
    state.at = order.findIndex((item) => item.id === id);
    keep();
    show();
    now = names.indexOf(name);
    showGrades();
    aim();
    say(`Undone: ${name}`);
  }
  function reveal() {
    $("expected").open = !$("expected").open;
  }
  function exportGrades() {
    const { grader, copy, saved, grades, remarks } = state;
    const file = { fieldstone: "grades", version: 1, sheet: sheet.id, grader, copy, saved, grades, remarks };
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
    link.download = `grades-${plainName(grader).replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unkept = false;
    say(`Exported: ${link.download}`);
  }
  const firstOpen = () => Math.max(order.findIndex((item) => !complete(item)), 0);

  $("back").onclick = () => go(state.at - 1);
  $("next").onclick = () => go(state.at + 1);
  $("undo").onclick = undo;
  $("export").onclick = exportGrades;
  $("finish").onclick = exportGrades;
  $("resume").onclick = () => go(firstOpen());
  $("again").onclick = () => go(0);
  $("keys").onclick = () => $("help").showModal();
  $("remark").oninput = () => {
    state.remarks[order[state.at].id] = $("remark").value;
    keep();
  };

  const KEYS = {
    arrowleft: () => go(state.at - 1),
    arrowright: () => go(state.at + 1),
    enter: () => go(state.at + 1),
    arrowup: () => choose(-1),
    arrowdown: () => choose(1),
    u: undo,
    r: reveal,
    c: () => $("remark").focus(),
  };
  [...words, "can’t say"].forEach((word, k) => {
    const level = () => (k === 3 ? null : turned(order[state.at]) ? -levels[k] : levels[k]);
    for (const key of k === 3 ? ["0"] : [String(k + 1), letters[k]]) KEYS[key] = () => grade(now, level(), word);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target.matches("input, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "?") return $("help").showModal();
    const pressed = event.key.toLowerCase();
    if (pressed === "enter" && event.target.matches("button, summary")) return;
    if (!state || !KEYS[pressed] || ($("grading").hidden && !["arrowleft", "u"].includes(pressed))) return;
    event.preventDefault();
    KEYS[pressed]();
  });
  window.addEventListener("storage", (event) => {
    // the same grader in another tab: what was graded last counts
    if (!state || !event.newValue || event.key !== PLACE + plainName(state.grader)) return;
    const { grades, remarks } = JSON.parse(event.newValue);
    Object.assign(state, { grades, remarks });
    show();
  });
  window.addEventListener("beforeunload", (event) => {
    if (unkept) event.preventDefault();
  });

  const help = [
    ...words.map((word, k) => [`${k + 1} or ${letters[k]}`, sheet.pairs && k !== 1 ? `${word} is better` : word]),
    ["0", "can’t say, or it does not apply"],
    ["↑ ↓", "choose what to grade"],
    ["→ or Enter", "the next question"],
    ["←", "back"],
    ["u", "undo"],
    ["r", "show or hide the expected answer"],
    ["c", "write a remark; Esc leaves it"],
    ["?", "these keys; Esc closes them"],
  ];
  for (const [keys, text] of help) {
    const term = element("dt");
    term.append(element("kbd", keys));
    $("help-list").append(term, element("dd", text));
  }
  start();
})();
