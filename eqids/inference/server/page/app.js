// The page: its state, and what happens when the user changes it.

import { showAnswers, versionName } from "./answers.js";
import { button, byId, make, nameOf, replaceRows, titled } from "./dom.js";
import { CatalogMap, readMap } from "./map.js";
import { ask, setKeyPrompt } from "./requests.js";
import { searchField } from "./search.js";

const lists = { history: [], allow: [], deny: [] }; // of items; the history oldest first
let model = null; // the answer of GET /v1/model
let answers = []; // of the served model, and of the one beside it
let points = null; // of the map
let pending = null;

const busy = (is) => byId("answers").setAttribute("aria-busy", String(is));
const onWait = (text) => void (byId("status").textContent = text);
const map = new CatalogMap(byId("map"), showPicked, noteFrame);
const handlers = { onAdd: add, onPoint: (marks) => map.mark(marks) };
setKeyPrompt(promptForKey);
searchField(byId("search"), byId("found"), { onChoose: add, onError: showError });
byId("user-form").onsubmit = loadUser;
byId("clear").onclick = () => {
  lists.history = [];
  byId("search").focus();
  changed();
};
for (const id of ["keep-seen", "k", "filter", "compare"]) byId(id).onchange = changed;
byId("zoom-in").onclick = () => map.zoomBy(1.6);
byId("zoom-out").onclick = () => map.zoomBy(1 / 1.6);
byId("show-all").onclick = () => map.showAll();
byId("show-marked").onclick = () => map.showMarked();
addEventListener("keydown", (event) => {
  const elsewhere = event.target.closest("input, select, dialog");
  if (event.key !== "/" || elsewhere || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  byId("search").focus();
});
changed();

/** Adds an item to a list, by default the one that the user selected. */
function add(item, name) {
  name ??= document.querySelector("input[name=target]:checked").value;
  if (name === "history") {
    // Items have times all or none.
    const timed = lists.history.some((event) => event.time !== null);
    const time = timed ? Math.floor(Date.now() / 1000) : null;
    lists.history.push({ ...item, time });
  } else {
    for (const list of ["allow", "deny"]) remove(list, item);
    lists[name].push(item);
  }
  changed();
}

function remove(name, { item }) {
  lists[name] = lists[name].filter((other) => other.item !== item);
}

async function loadUser(event) {
  event.preventDefault();
  const user = encodeURIComponent(byId("user").value.trim());
  busy(true);
  try {
    lists.history = (await ask(`v1/users/${user}`, { onWait })).history;
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
  busy(true);
  try {
    if (!model) await loadModel();
    if (signal.aborted) return;
    if (!byId("k").reportValidity()) return busy(false);
    const started = performance.now();
    const both = model.compared && byId("compare").checked;
    const sent = { body: request(), signal, onWait };
    const answer = await ask(both ? "v1/compare" : "v1/recommend", sent);
    answers = both ? [answer.served, answer.compared] : [answer];
    const milliseconds = Math.round(performance.now() - started);
    onWait(`${answers[0].items.length} recommendations in ${milliseconds} ms`);
    byId("error").hidden = true;
    show();
    await followReload();
    busy(signal !== pending.signal);
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function request() {
  const ids = (name) => lists[name].map((one) => one.item);
  const event = ({ item, time }) => (time === null ? item : { item, time });
  return {
    history: lists.history.map(event),
    k: byId("k").valueAsNumber,
    keep_seen: byId("keep-seen").checked,
    allow: lists.allow.length ? ids("allow") : null,
    deny: ids("deny"),
    filter: byId("filter").value || null,
    explain: true,
    unknown: "skip", // an item of the history may be gone after a reload
  };
}

/** Loads what depends on the model's version, if it is not that of the answer. */
async function followReload() {
  const version = JSON.stringify(answers[0].model);
  if (JSON.stringify(model.model) !== version) await loadModel();
  if (JSON.stringify(points?.model) === version) return;
  points = readMap(await ask("v1/map"));
  map.show(points);
  show();
}

async function loadModel() {
  model = await ask("v1/model", { onWait });
  const { checkpoint, step, catalog_id, catalog_version } = model.model;
  byId("served").textContent = versionName(model.model);
  byId("k").max = model.max_k;
  byId("compare-part").hidden = !model.compared;
  byId("filter-part").hidden = !model.filters.length;
  const option = (value) => make("option", { value }, value || "all items");
  byId("filter").replaceChildren(...["", ...model.filters].map(option));
  const rows = {
    Checkpoint: checkpoint,
    Step: step.toLocaleString(),
    "NDCG@10 on validation": model.ndcg_at_10?.toFixed(4) ?? "not measured",
    Catalog: `${catalog_id.slice(0, 12)}, version ${catalog_version}`,
    Items: model.num_items.toLocaleString(),
    Users: model.num_users.toLocaleString(),
    Reads: `the last ${model.seq_len.toLocaleString()} positions of a history`,
    "Compared with": model.compared?.checkpoint ?? "none, see --compare of the server",
  };
  const cells = Object.entries(rows).flatMap(([name, value]) => [
    make("dt", {}, name),
    make("dd", {}, value),
  ]);
  byId("model").replaceChildren(...cells);
}

function show() {
  showAnswers(answers, points, handlers);
  const [first, second = []] = answers.map(({ items }) => items.map((one) => one.item));
  // An item that both recommend leaves a gap, so that the others keep their ranks.
  const other = second.map((id) => (first.includes(id) ? null : id));
  const history = lists.history.map((one) => one.item);
  map.mark({ history, answer: first, other, named: [], lines: [] });
  byId("other-mark").hidden = answers.length < 2;
}

function showLists() {
  for (const [name, items] of Object.entries(lists)) {
    const rows = items.map((one, i) => {
      const drop = button("remove", "×", `Remove ${nameOf(one)}`, () => {
        lists[name].splice(i, 1);
        changed();
      });
      return make("li", { "data-key": `${one.item} ${i}` }, titled(one), drop);
    });
    replaceRows(byId(name), rows.reverse()); // the newest first
  }
  byId("allow-part").hidden = !lists.allow.length;
  byId("deny-part").hidden = !lists.deny.length;
  const num = lists.history.length;
  const items = num === 1 ? "1 item" : `${num.toLocaleString()} items, newest first`;
  byId("history-title").textContent = num ? items : "No items yet";
  byId("clear").hidden = !num;
}

function noteFrame(milliseconds) {
  const [shown, all] = [points.items.length, points.num_items];
  const part = all > shown ? `${shown.toLocaleString()} most popular of ` : "";
  const count = `${part}${all.toLocaleString()} items`;
  byId("map-note").textContent = `${count}, drawn in ${milliseconds.toFixed(1)} ms`;
}

function showPicked(index) {
  const place = byId("picked");
  if (index === undefined) return place.replaceChildren();
  const item = { item: points.items[index], title: points.titles[index] };
  const name = nameOf(item);
  place.replaceChildren(
    titled(item),
    make("small", {}, `cluster ${points.cluster[index]}`),
    button("use", "+", `Add ${name} to the history`, () => add(item, "history")),
    button("deny", "×", `Never recommend ${name}`, () => add(item, "deny")),
  );
}

function showError(error) {
  busy(false);
  byId("error").textContent = error.message;
  byId("error").hidden = false;
}

/** Asks for the API key in a dialog. */
function promptForKey(wrong) {
  const dialog = byId("key-dialog");
  byId("key-wrong").hidden = !wrong;
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.onclose = () => {
      if (dialog.returnValue === "key") resolve(byId("key").value.trim());
      else reject(new Error("The server wants an API key; any change asks again."));
    };
  });
}
