// The passages that a search found, and why: what each search on the way gave them.

import { clone, element, placeOf } from "./dom.js";
import { openSource } from "./source.js";

const WHY = {
  lexical: "lexical says how many words are shared, rare ones above all",
  dense: "dense how near they are in meaning",
  fused: "fused both together",
  likelihood: "likelihood how well the question follows from the passage",
  "cross-encoder": "cross-encoder what the reranker says",
};

// As many digits as tell scores apart.
const figure = (score) => score.toFixed(Math.abs(score) >= 10 ? 1 : Math.abs(score) >= 0.1 ? 2 : 3).replace("-", "−");

// name -> [lowest, highest]: a bar compares the passages within one search. Log-likelihoods have no zero.
function spans(hits) {
  const found = new Map();
  for (const { scores } of hits) {
    for (const [name, score] of Object.entries(scores)) {
      const [low, high] = found.get(name) ?? [0, score];
      found.set(name, [Math.min(low, score), Math.max(high, score)]);
    }
  }
  return found;
}

export function legendOf(hits) {
  const said = [...spans(hits).keys()].map((name) => WHY[name] ?? name);
  return `The best come first. A bar compares the passages within one search: ${said.join(", ")}.`;
}

// Fill `list` with hits. `cited` maps a passage's id to the number of its citation.
export function showHits(list, hits, workspace, cited = new Map()) {
  const scales = spans(hits);
  list.replaceChildren(
    ...hits.map((hit) => {
      const item = clone("hit");
      const button = item.querySelector(".place");
      const number = cited.get(hit.passage.id);
      button.append(element("b", hit.source));
      const place = placeOf({ ...hit, headings: hit.passage.headings, page: hit.passage.page });
      if (place) button.append(" ", element("span", place, "soft"));
      if (number) button.append(" ", element("span", `cited as ${number}`, "tag"));
      button.onclick = () => openSource([sourceOf(hit)], 0, workspace, button);
      item.querySelector(".snippet").textContent = hit.passage.text.replace(/\s+/g, " ");
      item.querySelector(".scores").replaceChildren(
        ...[...scales].map(([name, [low, high]]) => {
          const score = hit.scores[name];
          const bar = element("i");
          bar.style.setProperty("--share", score === undefined ? 0 : high > low ? (score - low) / (high - low) : 1);
          const its = element("li", name);
          its.append(" ", bar, " ", element("b", score === undefined ? "–" : figure(score)));
          return its;
        }),
      );
      return item;
    }),
  );
}

// A hit as the source pane shows it: the whole passage is marked.
export function sourceOf({ passage, source, title }) {
  const { id, document_id, start, end, headings, page } = passage;
  return { passage_id: id, document_id, start, end, source, title, headings, page, verified: true };
}
