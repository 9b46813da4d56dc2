// Makes elements. Texts become text nodes, so that a title is never HTML.

export const byId = (id) => document.getElementById(id);

/** Returns an element with properties ("aria-…", "data-…" and role: attributes). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Returns the title of an item, or its id if it has none. */
export function titled(item, className = "title") {
  return make("span", { className, dir: "auto" }, nameOf(item));
}

export const nameOf = (item) => item.title || String(item.item);

/** Returns a button; `name` says what it does, for the focus after a change. */
export function button(name, text, label, onclick) {
  return make("button", { type: "button", name, onclick, "aria-label": label }, text);
}

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
  const target =
    rows.find((other) => other.dataset.key === row?.dataset.key) ??
    rows[Math.min(at, rows.length - 1)];
  (target?.querySelector(`button[name="${focused.name}"]`) ?? list).focus();
}
