// The field that finds items by words of their titles: a combobox by the ARIA pattern.

import { make, titled } from "./dom.js";
import { ask } from "./requests.js";

/** Makes a combobox of an input and a listbox. */
export function searchField(input, list, { onChoose, onError }) {
  let items = [];
  let active = -1;
  let pending = null;

  function show(found) {
    const chosen = items[active]?.item;
    items = found;
    const rows = items.map((item, i) => {
      const count = `${item.count.toLocaleString()} events`;
      const more = item.title ? `${item.item} · ${count}` : count;
      const option = make("li", { id: `found-${i}`, role: "option" }, titled(item));
      option.append(make("small", {}, more));
      option.onpointerdown = (event) => event.preventDefault(); // the field keeps focus
      option.onclick = () => choose(i);
      return option;
    });
    const none = make("li", { className: "none" }, "No title has these words.");
    list.replaceChildren(...(rows.length ? rows : [none]));
    open(true);
    // The answer to the last letter may come after the first arrow key.
    move(items.findIndex(({ item }) => item === chosen));
  }

  function open(wanted) {
    list.hidden = !wanted;
    input.setAttribute("aria-expanded", String(wanted));
  }

  function move(to) {
    list.children[active]?.removeAttribute("aria-selected");
    active = to;
    const option = list.children[active];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option?.id ?? "");
  }

  function close() {
    pending?.abort();
    items = [];
    move(-1);
    open(false);
  }

  function choose(i) {
    const { item, title } = items[i];
    input.value = "";
    close();
    onChoose({ item, title });
  }

  async function find() {
    pending?.abort();
    const { signal } = (pending = new AbortController());
    try {
      show((await ask("v1/items", { query: { q: input.value, k: 20 }, signal })).items);
    } catch (error) {
      if (!signal.aborted) onError(error);
    }
  }

  input.oninput = () => {
    move(-1);
    if (input.value.trim()) find();
    else close();
  };
  input.onblur = close;
  input.onkeydown = (event) => {
    const last = items.length - 1;
    if (event.key === "ArrowDown" && list.hidden) find();
    else if (event.key === "ArrowDown") move(active < last ? active + 1 : 0);
    else if (event.key === "ArrowUp") move(active > 0 ? active - 1 : last);
    else if (event.key === "Enter" && items.length) choose(Math.max(0, active));
    else if (event.key === "Escape" && !list.hidden) close();
    else return;
    event.preventDefault();
  };
}
