// Small things of the page. Text from documents, models and servers comes in by textContent alone.

export const $ = (id) => document.getElementById(id);

export function element(name, text = "", kind = "") {
  const its = document.createElement(name);
  its.textContent = text;
  if (kind) its.className = kind;
  return its;
}

export const clone = (template) => $(template).content.firstElementChild.cloneNode(true);

let fading = 0;

// Tell what was done, for a moment, to the eye and to a screen reader.
export function say(text) {
  const said = $("said");
  said.textContent = text;
  said.classList.remove("gone");
  clearTimeout(fading);
  fading = setTimeout(() => said.classList.add("gone"), 4000);
}

// A message as a sentence: those of the library begin with a small letter and have no full stop.
export function sentence(text) {
  const its = text.trim();
  if (!its) return its;
  return its[0].toUpperCase() + its.slice(1) + (/[.!?…]$/.test(its) ? "" : ".");
}

// Where a passage stands, as one reads it: its headings and page.
export function placeOf({ title, source, headings = [], page }) {
  const path = [title, ...headings].filter((part, i, all) => part && part !== source && part !== all[i - 1]);
  return [path.join(" › "), page ? `page ${page}` : ""].filter(Boolean).join(", ");
}

// The button of something that takes a while: it cannot be pressed twice.
export async function during(button, work) {
  button.disabled = true;
  try {
    return await work();
  } finally {
    button.disabled = false;
  }
}
