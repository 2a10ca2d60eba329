// What questions and searches are limited to. It is kept for each workspace until the page is left.

import { clone, say } from "./dom.js";

const kept = new Map(); // workspace -> {source, type, since, until}, of which those are there that say something
const places = []; // the same controls, wherever they stand: {button, panel, fields}
let workspace = "";

// What is sent along; undefined where nothing is limited.
export const filterOf = (name) => kept.get(name);

// As one reads it; empty where nothing is limited.
export function told(filter = {}) {
  const { source, type, since, until } = filter;
  return [source, type, since && `since ${since}`, until && `until ${until}`].filter(Boolean).join(", ");
}

export function showFilter(name) {
  workspace = name;
  const filter = kept.get(workspace) ?? {};
  for (const { button, fields } of places) {
    button.textContent = told(filter) ? `Filter: ${told(filter)}` : "Filter";
    for (const field of fields) {
      const value = filter[field.name] ?? "";
      if (field.value.trim() !== value) field.value = value; // what is just being typed stays as it is
    }
  }
}

function take(fields) {
  const said = fields.map(({ name, value }) => [name, value.trim()]).filter(([, value]) => value);
  if (said.length) kept.set(workspace, Object.fromEntries(said));
  else kept.delete(workspace);
  showFilter(workspace);
}

function open(button, panel, wanted) {
  panel.hidden = !wanted;
  button.setAttribute("aria-expanded", String(wanted));
  (wanted ? panel.querySelector("input") : button).focus();
}

for (const button of document.querySelectorAll(".filtering")) {
  const panel = clone("filter");
  const fields = [...panel.querySelectorAll("input")];
  const form = button.closest("form");
  form.append(panel);
  panel.id = `${form.id}-filter`;
  button.setAttribute("aria-controls", panel.id);
  button.onclick = () => open(button, panel, panel.hidden);
  panel.oninput = () => take(fields);
  panel.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // it closes no more than this
    open(button, panel, false);
  };
  panel.querySelector("button").onclick = () => {
    for (const field of fields) field.value = "";
    take(fields);
    fields[0].focus();
    say("No filter");
  };
  places.push({ button, panel, fields });
}
