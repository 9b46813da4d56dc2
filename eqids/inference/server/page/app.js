// The page: its state, and what happens when the user changes it.

import { button, byId, make, nameOf, replaceRows, titled } from "./dom.js";
import { CatalogMap, clusterColour, readMap } from "./map.js";
import { ask, setKeyPrompt } from "./requests.js";
import { searchField } from "./search.js";

const lists = { history: [], allow: [], deny: [] }; // of items; the history oldest first
let model = null; // the answer of GET /v1/model
let answers = []; // of the served model, and of the one beside it
let points = null; // of the map
let pending = null;

const map = new CatalogMap(byId("map"), { onPick: showPicked, onDraw: noteFrame });
setKeyPrompt(promptForKey);
searchField(byId("search"), byId("found"), { onChoose: add, onError: showError });
byId("user-form").onsubmit = (event) => {
  event.preventDefault();
  loadUser(byId("user").value.trim());
};
byId("clear").onclick = () => {
  lists.history = [];
  changed();
  byId("search").focus();
};
for (const id of ["keep-seen", "k", "filter", "compare"]) byId(id).onchange = changed;
byId("zoom-in").onclick = () => map.zoomBy(1.6);
byId("zoom-out").onclick = () => map.zoomBy(1 / 1.6);
byId("show-all").onclick = () => map.showAll();
byId("show-marked").onclick = () => map.showMarked();
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    byId("search").focus();
  }
});
changed();

/** Adds an item to one of the lists, by default the one that the user selected. */
function add(item, name) {
  name ??= document.querySelector("input[name=target]:checked").value;
  const timed = lists.history.some((event) => event.time !== null);
  if (name === "history") {
    const time = timed ? Math.floor(Date.now() / 1000) : null;
    lists.history.push({ ...item, time });
  } else {
    const same = (other) => other.item === item.item;
    const opposite = name === "allow" ? "deny" : "allow";
    lists[opposite] = lists[opposite].filter((other) => !same(other));
    if (!lists[name].some(same)) lists[name].push(item);
  }
  changed();
}

function remove(name, entry) {
  lists[name] = lists[name].filter((other) => other !== entry);
  changed();
}

async function loadUser(user) {
  try {
    const { history } = await ask(`v1/users/${encodeURIComponent(user)}`, { onWait: showStatus });
    lists.history = history;
    changed();
  } catch (error) {
    showError(error);
  }
}

/** Shows the lists, and asks for recommendations; only the newest answer is shown. */
async function changed() {
  showLists();
  pending?.abort();
  const { signal } = (pending = new AbortController());
  const started = performance.now();
  try {
    if (!model) await loadModel();
    signal.throwIfAborted();
    if (!byId("k").reportValidity()) return;
    const both = Boolean(model.compared) && byId("compare").checked;
    const path = both ? "v1/compare" : "v1/recommend";
    const answer = await ask(path, { body: request(), signal, onWait: showStatus });
    const found = both ? [answer.served, answer.compared] : [answer];
    if (!sameModel(found[0].model, model.model)) await loadModel(); // after a reload
    signal.throwIfAborted();
    answers = found;
    byId("error").hidden = true;
    showAnswers(performance.now() - started);
    await loadMap();
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function request() {
  const ids = (name) => (lists[name].length ? lists[name].map((one) => one.item) : undefined);
  const event = ({ item, time }) => (time === null ? item : { item, time });
  return {
    history: lists.history.map(event),
    k: byId("k").valueAsNumber,
    keep_seen: byId("keep-seen").checked,
    allow: ids("allow"),
    deny: ids("deny"),
    filter: byId("filter").value || undefined,
    explain: true,
    unknown: "skip", // of a history that a reload has outlived
  };
}

const sameModel = (a, b) =>
  a.checkpoint === b.checkpoint && a.catalog_version === b.catalog_version;
const shortName = (name) => `${name.checkpoint.split("/").slice(-2, -1)[0] ?? ""} step ${name.step}`.trim();
const percent = (share) => (share >= 0.0001 ? `${(100 * share).toFixed(2)}%` : "<0.01%");

async function loadModel() {
  model = await ask("v1/model", { onWait: showStatus });
  byId("served").textContent = shortName(model.model);
  byId("k").max = model.max_k;
  byId("compare-part").hidden = !model.compared;
  const filter = byId("filter");
  const kept = filter.value;
  filter.replaceChildren(
    make("option", { value: "" }, "all items"),
    ...model.filters.map((name) => make("option", { value: name }, name)),
  );
  filter.value = model.filters.includes(kept) ? kept : "";
  byId("filter-part").hidden = !model.filters.length;
  const score = model.ndcg_at_10 === null ? "not measured" : model.ndcg_at_10.toFixed(4);
  const rows = [
    ["Checkpoint", model.model.checkpoint],
    ["Step", model.model.step.toLocaleString()],
    ["NDCG@10 on validation", score],
    ["Catalog", `${model.model.catalog_id.slice(0, 12)}, version ${model.model.catalog_version}`],
    ["Items", model.num_items.toLocaleString()],
    ["Users", model.num_users.toLocaleString()],
    ["Reads", `the last ${model.seq_len.toLocaleString()} positions of a history`],
    ["Compared with", model.compared ? model.compared.checkpoint : "none: start the server with --compare DIR"],
  ];
  byId("model").replaceChildren(
    make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  );
}

async function loadMap() {
  if (!points || !sameModel(points.model, answers[0].model)) {
    points = readMap(await ask("v1/map"));
    map.show(points);
    showAnswers();
  }
}

function showLists() {
  for (const [name, items] of Object.entries(lists)) {
    const rows = items.map((one, i) => {
      const drop = button("remove", "×", `Remove ${nameOf(one)}`, () => remove(name, one));
      return make("li", { "data-key": `${one.item} ${i}` }, titled(one), drop);
    });
    if (name === "history") rows.reverse(); // the newest first
    replaceRows(byId(name), rows);
    if (name !== "history") byId(`${name}-part`).hidden = !items.length;
  }
  const num = lists.history.length;
  byId("history-title").textContent =
    num === 0 ? "No items yet" : `${num.toLocaleString()} ${num === 1 ? "item" : "items"}, newest first`;
  byId("clear").hidden = num === 0;
}

function showAnswers(milliseconds) {
  const columns = byId("columns");
  columns.className = answers.length > 1 ? "two" : "";
  while (columns.childElementCount > answers.length) columns.lastChild.remove();
  while (columns.childElementCount < answers.length) {
    const list = make("ol", { className: "answer", tabIndex: -1 });
    columns.append(make("div", {}, make("h3"), make("p", { className: "note" }), list));
  }
  const largest = Math.max(...answers.flatMap((one) => one.items.map((item) => item.probability)));
  answers.forEach((answer, i) => {
    const [heading, note, list] = columns.children[i].children;
    const other = answers[1 - i];
    heading.textContent = shortName(answer.model);
    heading.hidden = !other;
    list.setAttribute("aria-label", `Recommendations of ${shortName(answer.model)}`);
    note.textContent = noteOf(answer, other);
    note.hidden = !note.textContent;
    replaceRows(list, answer.items.map((item) => answerRow(item, other, largest)));
  });
  if (milliseconds !== undefined) {
    showStatus(`${answers[0].items.length} recommendations in ${Math.round(milliseconds)} ms`);
  }
  markMap();
}

function noteOf(answer, other) {
  const notes = [];
  if (answer.popularity) notes.push("The history is empty: the most popular items, with their shares of all events.");
  if (answer.left_out?.history) notes.push(`${answer.left_out.history} items of the history are not in the catalog.`);
  if (!answer.items.length) notes.push("No item may be recommended.");
  if (other) {
    const ids = new Set(other.items.map((one) => one.item));
    const num = answer.items.filter((one) => ids.has(one.item)).length;
    notes.push(`${num} of ${answer.items.length} are recommended by the other model too.`);
  }
  return notes.join(" ");
}

function answerRow(item, other, largest) {
  const row = make("li", { "data-key": item.item });
  const at = points?.at.get(String(item.item));
  const dot = make("i", { className: "dot", "aria-hidden": "true" });
  if (at !== undefined) dot.style.background = clusterColour(points.clusters[at]);
  const name = nameOf(item);
  const head = make("div", { className: "head" }, dot, titled(item));
  if (other) {
    const rank = other.items.find((one) => one.item === item.item)?.rank;
    head.append(make("span", { className: "elsewhere" }, rank ? `there ${rank}` : "only here"));
  }
  const bar = make("div", { className: "bar" }, make("div"));
  bar.firstChild.style.width = `${(100 * item.probability) / (largest || 1)}%`;
  const share = make("span", { className: "share" }, percent(item.probability));
  const why = make("p", { className: "why" });
  (item.near ?? []).forEach((near, i) => {
    const similarity = make("small", {}, near.similarity.toFixed(2));
    why.append(i ? ", " : "near ", titled(near, "near"), " ", similarity);
  });
  row.append(
    make("span", { className: "rank" }, String(item.rank)),
    make("div", { className: "body" }, head, make("div", { className: "chance" }, bar, share), why),
    make("div", { className: "actions" },
      button("use", "+", `Add ${name} to the history`, () => add(plain(item), "history")),
      button("deny", "×", `Never recommend ${name}`, () => add(plain(item), "deny"))),
  );
  const lines = (item.near ?? []).map((near) => [item.item, near.item]);
  row.onmouseenter = row.onfocusin = () => map.mark({ lines });
  row.onmouseleave = row.onfocusout = () => map.mark({ lines: [] });
  return row;
}

const plain = ({ item, title }) => ({ item, title });

function markMap() {
  const ids = answers.map((answer) => answer.items.map((one) => one.item));
  const first = new Set(ids[0]);
  // Ranks are kept: an item that both recommend leaves a gap.
  const other = (ids[1] ?? []).map((id) => (first.has(id) ? null : id));
  map.mark({ history: lists.history.map((one) => one.item), answer: ids[0] ?? [], other, lines: [] });
  byId("other-mark").hidden = !ids[1];
}

function noteFrame(milliseconds) {
  const { num_items, items } = points;
  const which = num_items > items.length ? `the ${items.length.toLocaleString()} most popular of ` : "";
  byId("map-note").textContent = `${which}${num_items.toLocaleString()} items, drawn in ${milliseconds.toFixed(1)} ms`;
}

function showPicked(index) {
  const place = byId("picked");
  if (index === undefined) return place.replaceChildren();
  const item = { item: points.items[index], title: points.titles[index] };
  const name = nameOf(item);
  place.replaceChildren(
    titled(item),
    make("small", {}, `cluster ${points.clusters[index]}`),
    button("use", "+", `Add ${name} to the history`, () => add(item, "history")),
    button("deny", "×", `Never recommend ${name}`, () => add(item, "deny")),
  );
}

function showStatus(text) {
  byId("status").textContent = text;
}

function showError(error) {
  byId("error").textContent = error.message;
  byId("error").hidden = false;
}

/** Asks for the API key in a dialog; Escape asks again at the next request. */
function promptForKey(wrong) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  byId("key-wrong").hidden = !wrong;
  input.value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.onclose = () =>
      dialog.returnValue === "" && !input.value
        ? reject(new Error("The server wants an API key."))
        : resolve(input.value.trim());
    dialog.oncancel = () => (input.value = "");
  });
}
