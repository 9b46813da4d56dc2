// Shows recommendations: one column, or two to compare.

import { button, byId, make, nameOf, replaceRows, titled } from "./dom.js";
import { clusterColour } from "./map.js";

/** Returns the name of a model's version for people. */
export function versionName({ checkpoint, step }) {
  const [run] = checkpoint.split("/").slice(-2); // RUN/STEP
  return run === String(step) ? `step ${step}` : `${run} step ${step}`;
}

/** Shows answers of one or two models, with the colours of `points`, if it is known.
 * `onAdd` receives an item and the list for it, `onPoint` what to mark on the map. */
export function showAnswers(answers, points, { onAdd, onPoint }) {
  const columns = byId("columns");
  if (columns.childElementCount !== answers.length) {
    const column = () => {
      const list = make("ol", { className: "answer", tabIndex: -1 });
      return make("div", {}, make("h3"), make("p", { className: "note" }), list);
    };
    columns.replaceChildren(...answers.map(column));
    columns.className = answers.length > 1 ? "two" : "";
  }
  const all = answers.flatMap(({ items }) => items.map((item) => item.probability));
  const largest = Math.max(...all, 1e-9);
  answers.forEach((answer, i) => {
    const [heading, note, list] = columns.children[i].children;
    const other = answers[1 - i];
    heading.textContent = versionName(answer.model);
    heading.hidden = !other;
    list.setAttribute("aria-label", `Recommendations of ${versionName(answer.model)}`);
    note.textContent = noteOf(answer, other);
    note.hidden = !note.textContent;
    const rows = answer.items.map((item) => {
      const at = points?.at.get(String(item.item));
      const colour = at === undefined ? "" : clusterColour(points.cluster[at]);
      const parts = { colour, width: item.probability / largest, other };
      return answerRow(item, parts, onAdd, onPoint);
    });
    replaceRows(list, rows);
  });
}

function noteOf({ items, popularity, left_out }, other) {
  const notes = [];
  if (popularity) notes.push("No history: the most popular items, by share of events.");
  if (left_out?.history) notes.push(`${left_out.history} unknown items are left out.`);
  if (!items.length) notes.push("No item may be recommended.");
  if (other && items.length) {
    const ids = new Set(other.items.map((one) => one.item));
    const num = items.filter((one) => ids.has(one.item)).length;
    notes.push(`${num} of ${items.length} are in both lists.`);
  }
  return notes.join(" ");
}

function answerRow(item, { colour, width, other }, onAdd, onPoint) {
  const name = nameOf(item);
  const add = (list) => () => onAdd({ item: item.item, title: item.title }, list);
  const dot = make("i", { className: "dot" });
  dot.style.background = colour;
  const bar = make("div", { className: "bar" }, make("div"));
  bar.firstChild.style.width = `${100 * width}%`;
  const percent = 100 * item.probability;
  const share = percent < 0.01 ? "<0.01" : percent.toFixed(2);
  const why = make("p", { className: "why" });
  if (other) {
    const rank = other.items.find((one) => one.item === item.item)?.rank;
    const elsewhere = rank ? `rank ${rank} in the other` : "only here";
    why.append(make("span", { className: "elsewhere" }, elsewhere), " ");
  }
  const near = (item.near ?? []).filter((one) => one.similarity > 0); // not opposite
  if (near.length) why.append("near ");
  for (const one of near) {
    const similarity = make("small", {}, one.similarity.toFixed(2));
    const parts = [titled(one, "near"), " ", similarity];
    why.append(make("span", { className: "hint" }, ...parts));
  }
  const use = button("use", "+", `Add ${name} to the history`, add("history"));
  const deny = button("deny", "×", `Never recommend ${name}`, add("deny"));
  const row = make(
    "li",
    { "data-key": item.item },
    make("span", { className: "rank" }, String(item.rank)),
    make("div", { className: "head" }, dot, titled(item)),
    make("div", { className: "actions" }, use, deny),
    make("div", { className: "chance" }, bar, make("span", {}, `${share}%`)),
    why,
  );
  const lines = near.map((one) => [item.item, one.item]);
  row.onmouseenter = () => onPoint({ named: [item.item], lines });
  row.onmouseleave = () => onPoint({ named: [], lines: [] });
  row.addEventListener("focusin", row.onmouseenter);
  row.addEventListener("focusout", row.onmouseleave);
  return row;
}
