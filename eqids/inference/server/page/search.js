// The field that finds items by words of their titles: a combobox by the ARIA pattern.

import { make, titled } from "./dom.js";
import { ask } from "./requests.js";

/** Makes a combobox of an input and a listbox. */
export function searchField(input, list, { onChoose, onError }) {
  let items = [];
  let active = -1;
  let pending = null;

  function show(found) {
    items = found;
    active = -1;
    list.replaceChildren(
      ...items.map((item, i) => {
        const count = `${item.count.toLocaleString()} events`;
        const option = make("li", { id: `found-${i}`, role: "option" }, titled(item));
        if (item.title) option.append(make("small", {}, `${item.item} · ${count}`));
        else option.append(make("small", {}, count));
        // The field keeps the focus.
        option.onpointerdown = (event) => event.preventDefault();
        option.onclick = () => choose(i);
        return option;
      }),
    );
    if (!items.length && input.value.trim()) {
      list.append(make("li", { className: "none" }, "No title has these words."));
    }
    const open = list.childElementCount > 0;
    list.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    move(-1);
  }

  function move(to) {
    list.children[active]?.removeAttribute("aria-selected");
    active = to;
    const option = items.length ? list.children[active] : undefined;
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function close() {
    pending?.abort();
    show([]);
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
  }

  function choose(i) {
    const item = items[i];
    input.value = "";
    close();
    onChoose({ item: item.item, title: item.title });
  }

  async function find() {
    pending?.abort();
    const { signal } = (pending = new AbortController());
    try {
      const query = { q: input.value, k: 20 };
      show((await ask("v1/items", { query, signal })).items);
    } catch (error) {
      if (!signal.aborted) onError(error);
    }
  }

  input.oninput = () => (input.value.trim() ? find() : close());
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
