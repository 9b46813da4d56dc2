// The map of the catalog: a canvas that moves, zooms, and marks items.

import { drawPoints, rgb } from "./points.js";

const NUM_TINTS = 512; // clusters beyond share colours
const MOST_ZOOM = 500;
const PICK = 12; // pixels between the pointer and an item that it means
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Returns the colour of a cluster, in CSS. */
export function clusterColour(cluster) {
  const hue = ((cluster % NUM_TINTS) * 137.508) % 360; // neighbours differ most
  return dark.matches ? `oklch(0.74 0.12 ${hue})` : `oklch(0.64 0.13 ${hue})`;
}

/** Decodes the answer of GET /v1/map. */
export function readMap({ model, num_items, items, titles, x, y, cluster }) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const units = (text) => Float32Array.from(new Uint16Array(bytes(text)), (n) => n / 65535);
  const clusters = new Int32Array(bytes(cluster));
  const tint = Uint16Array.from(clusters, (one) => one % NUM_TINTS);
  const at = new Map(items.map((item, i) => [String(item), i]));
  return { model, num_items, items, titles, x: units(x), y: units(y), clusters, tint, at };
}

/** A canvas with a map; `onPick` receives the index of an item. */
export class CatalogMap {
  constructor(canvas, { onPick, onDraw }) {
    Object.assign(this, { canvas, onPick, onDraw });
    this.context = canvas.getContext("2d", { alpha: false });
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.marks = { history: [], answer: [], other: [], lines: [] };
    this.pointers = new Map();
    new ResizeObserver(() => this.#resize()).observe(canvas);
    dark.addEventListener("change", () => this.#paint());
    this.#listen();
    this.#resize();
  }

  /** Shows a map from `readMap`. */
  show(points) {
    this.points = points;
    this.#paint();
  }

  /** Marks items: lists of ids, and lines as pairs of ids. */
  mark(marks) {
    Object.assign(this.marks, marks);
    this.draw();
  }

  zoomBy(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
    const { left, top, scale } = this.#frame();
    const [x, y] = [left + px / scale, top + py / scale];
    const zoom = Math.min(MOST_ZOOM, Math.max(0.5, this.view.zoom * factor));
    const kept = this.view.zoom / zoom; // the point under the pointer stays there
    this.view = { x: x - (x - this.view.x) * kept, y: y - (y - this.view.y) * kept, zoom };
    this.draw();
  }

  showAll() {
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.draw();
  }

  showMarked() {
    const { history, answer, other } = this.marks;
    const found = this.#indices([...history, ...answer, ...other]);
    if (!found.length) return this.showAll();
    const [xs, ys] = ["x", "y"].map((name) => found.map((i) => this.points[name][i]));
    const middle = (all) => (Math.min(...all) + Math.max(...all)) / 2;
    const span = (all) => Math.max(...all) - Math.min(...all);
    const zoom = 0.85 / Math.max(span(xs), span(ys), 0.02);
    this.view = { x: middle(xs), y: middle(ys), zoom };
    this.draw();
  }

  /** Draws before the next frame of the screen, once however often it is called. */
  draw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.#drawNow();
    });
  }

  #indices(ids) {
    const at = this.points?.at;
    return at ? ids.map((id) => at.get(String(id))).filter((i) => i !== undefined) : [];
  }

  #resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { clientWidth, clientHeight } = this.canvas;
    this.ratio = ratio;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.#drawNow(); // in the same frame: the canvas is empty now
  }

  #paint() {
    const style = getComputedStyle(this.canvas);
    this.background = rgb([style.backgroundColor]);
    this.ink = style.color;
    this.paper = style.backgroundColor;
    if (this.points) {
      const clusters = Array.from({ length: NUM_TINTS }, (_, i) => clusterColour(i));
      this.points.colours = rgb(clusters);
    }
    this.draw();
  }

  /** Returns where the canvas is on the map, in device pixels. */
  #frame() {
    const { width, height } = this.canvas;
    const scale = 0.94 * Math.min(width, height) * this.view.zoom;
    return { left: this.view.x - width / 2 / scale, top: this.view.y - height / 2 / scale, scale };
  }

  #drawNow() {
    if (!this.background) return;
    const started = performance.now();
    const { canvas, context, points } = this;
    const view = this.#frame();
    if (points?.colours) {
      // A few percent of the area is covered, however many points there are.
      const spread = Math.sqrt((canvas.width * canvas.height) / points.x.length / 12);
      const base = Math.min(3.2 * this.ratio, Math.max(0.7 * this.ratio, spread));
      const radius = Math.min(5 * this.ratio, base * Math.max(1, this.view.zoom) ** 0.3);
      drawPoints(this.image, points, view, radius, this.background);
      context.putImageData(this.image, 0, 0);
      this.#drawMarks(view);
      this.onDraw(performance.now() - started);
    } else {
      context.fillStyle = this.paper;
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
  }

  #drawMarks(view) {
    const { context, ratio, points } = this;
    const place = (i) => [
      (points.x[i] - view.left) * view.scale,
      (points.y[i] - view.top) * view.scale,
    ];
    context.lineWidth = 1.5 * ratio;
    context.strokeStyle = this.ink;
    for (const pair of this.marks.lines) {
      const ends = this.#indices(pair);
      if (ends.length < 2) continue;
      context.beginPath();
      ends.forEach((i) => context.lineTo(...place(i)));
      context.stroke();
    }
    for (const id of this.marks.history) {
      for (const i of this.#indices([id])) this.#disc(place(i), 4.5, this.paper, this.ink);
    }
    const ranked = (ids, fill, edge, text) => {
      for (let rank = ids.length; rank >= 1; rank--) { // the best on top
        for (const i of this.#indices([ids[rank - 1]])) {
          this.#disc(place(i), 9, fill, edge);
          this.#text(String(rank), place(i), text, 10.5);
        }
      }
    };
    ranked(this.marks.other, this.paper, this.ink, this.ink);
    ranked(this.marks.answer, this.ink, this.paper, this.paper);
    const named = this.hovered ?? this.chosen;
    if (named !== undefined) this.#label(place(named), points.titles[named] || String(points.items[named]));
  }

  #disc([px, py], radius, fill, edge) {
    const { context, ratio } = this;
    context.beginPath();
    context.arc(px, py, radius * ratio, 0, 7);
    context.fillStyle = fill;
    context.fill();
    context.lineWidth = 1.5 * ratio;
    context.strokeStyle = edge;
    context.stroke();
  }

  #text(text, [px, py], colour, size, align = "center") {
    const { context, ratio } = this;
    context.font = `600 ${size * ratio}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = "middle";
    context.fillStyle = colour;
    context.fillText(text, px, py + 0.5 * ratio);
  }

  #label([px, py], title) {
    const { context, ratio, canvas } = this;
    const text = title.length > 60 ? `${title.slice(0, 58)}…` : title;
    this.#disc([px, py], 5, "transparent", this.ink);
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    const width = context.measureText(text).width + 14 * ratio;
    const left = Math.max(0, Math.min(px + 10 * ratio, canvas.width - width));
    const top = Math.max(0, py - 32 * ratio);
    context.fillStyle = this.ink;
    context.beginPath();
    context.roundRect(left, top, width, 24 * ratio, 5 * ratio);
    context.fill();
    this.#text(text, [left + 7 * ratio, top + 12 * ratio], this.paper, 12, "left");
  }

  /** Returns the index of the item that is nearest to a pixel, if one is near. */
  #nearest([px, py], reach = PICK * this.ratio) {
    if (!this.points) return undefined;
    const { x, y } = this.points;
    const { left, top, scale } = this.#frame();
    const [mx, my] = [left + px / scale, top + py / scale];
    let best = (reach / scale) ** 2;
    let found;
    for (let i = 0; i < x.length; i++) {
      const far = (x[i] - mx) ** 2 + (y[i] - my) ** 2;
      if (far < best) [best, found] = [far, i];
    }
    return found;
  }

  #pick(index) {
    this.chosen = index;
    this.draw();
    this.onPick(index);
  }

  #listen() {
    const { canvas, pointers } = this;
    const at = (event) => [event.offsetX * this.ratio, event.offsetY * this.ratio];
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      this.dragged = pointers.size > 1 ? Infinity : 0;
    };
    canvas.onpointermove = (event) => {
      const before = pointers.get(event.pointerId);
      const now = at(event);
      if (!before) {
        const hovered = this.#nearest(now);
        if (hovered !== this.hovered) this.draw();
        this.hovered = hovered;
        return;
      }
      this.dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
      const others = [...pointers].filter(([id]) => id !== event.pointerId);
      pointers.set(event.pointerId, now);
      const share = 1 / pointers.size; // two fingers move the map by their middle
      const { scale } = this.#frame();
      this.view.x -= ((now[0] - before[0]) * share) / scale;
      this.view.y -= ((now[1] - before[1]) * share) / scale;
      if (others.length === 1) {
        const [[, fixed]] = others;
        const far = (a) => Math.hypot(a[0] - fixed[0], a[1] - fixed[1]) || 1;
        this.zoomBy(far(now) / far(before), (now[0] + fixed[0]) / 2, (now[1] + fixed[1]) / 2);
      }
      this.draw();
    };
    canvas.onpointerup = (event) => {
      const clicked = this.dragged < 5 * this.ratio;
      pointers.delete(event.pointerId);
      if (clicked && pointers.size === 0) this.#pick(this.#nearest(at(event)));
    };
    canvas.onpointercancel = (event) => pointers.delete(event.pointerId);
    canvas.onpointerleave = () => {
      this.hovered = undefined;
      this.draw();
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode ? 30 : 1; // lines to pixels
      this.zoomBy(Math.exp(-event.deltaY * lines * 0.002), ...at(event));
    }, { passive: false });
    canvas.onkeydown = (event) => this.#onKey(event);
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    const { width, height } = this.canvas;
    if (move) {
      const step = (0.1 * Math.min(width, height)) / this.#frame().scale;
      this.view.x += move[0] * step;
      this.view.y += move[1] * step;
      this.draw();
    } else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "0") this.showAll();
    else if (event.key === "Enter") this.#pick(this.#nearest([width / 2, height / 2], Infinity));
    else return;
    event.preventDefault();
  }
}
