// Makes elements. Texts become text nodes, so that a title is never HTML.

export const byId = (id) => document.getElementById(id);

/** Returns an element; names with a hyphen are attributes, others properties. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Returns what the user calls an item. */
export const nameOf = (item) => item.title || String(item.item);

export const titled = (item, className = "title") =>
  make("span", { className, dir: "auto" }, nameOf(item));

/** Returns the button of an item; `name` says what it does, for the focus later. */
export const button = (name, text, title, onclick) =>
  make("button", { type: "button", name, onclick, title, "aria-label": title }, text);

/** Replaces the rows of a list. The focus stays with the same row and button; if that
 * row is gone, it goes to the row in its place. */
export function replaceRows(list, rows) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const row = focused?.closest("li");
  const at = row ? [...list.children].indexOf(row) : 0;
  const { scrollTop } = list;
  list.replaceChildren(...rows);
  list.scrollTop = scrollTop;
  if (!focused) return;
  const same = rows.find((other) => other.dataset.key === row?.dataset.key);
  const next = same ?? rows[Math.min(at, rows.length - 1)];
  (next?.querySelector(`button[name="${focused.name}"]`) ?? list).focus();
}
