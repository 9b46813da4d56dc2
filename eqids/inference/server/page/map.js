// The map of the catalog: a canvas that moves, zooms, and marks items.

import { drawPoints, rgb } from "./points.js";

const NUM_TINTS = 512; // clusters beyond share colours
const PICK = 12; // pixels between the pointer and an item that it means
const MOVES = new Map([
  ["ArrowLeft", [-1, 0]],
  ["ArrowRight", [1, 0]],
  ["ArrowUp", [0, -1]],
  ["ArrowDown", [0, 1]],
]);
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Returns the colour of a cluster, in CSS. */
export function clusterColour(cluster) {
  const hue = ((cluster % NUM_TINTS) * 137.508) % 360; // the next differs most
  return dark.matches ? `oklch(0.74 0.12 ${hue})` : `oklch(0.64 0.13 ${hue})`;
}

const unit = (whole) => whole / 65535;

/** Decodes the answer of GET /v1/map. */
export function readMap(answer) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const units = (text) => Float32Array.from(new Uint16Array(bytes(text)), unit);
  const cluster = new Int32Array(bytes(answer.cluster));
  return {
    ...answer,
    x: units(answer.x),
    y: units(answer.y),
    cluster,
    tint: cluster.map((one) => one % NUM_TINTS),
    at: new Map(answer.items.map((item, i) => [String(item), i])),
  };
}

/** A canvas with a map; `onPick` receives the index of an item, `onDraw` the
 * milliseconds that a frame took. */
export class CatalogMap {
  constructor(canvas, onPick, onDraw) {
    Object.assign(this, { canvas, onPick, onDraw, pointers: new Map() });
    this.context = canvas.getContext("2d", { alpha: false });
    this.marks = { history: [], answer: [], other: [], named: [], lines: [] };
    this.showAll();
    new ResizeObserver(() => this.#resize()).observe(canvas);
    dark.addEventListener("change", () => this.show(this.points));
    this.#listen();
  }

  /** Shows a map from `readMap`, in the colours of the page. */
  show(points) {
    this.points = points;
    if (!points) return;
    const style = getComputedStyle(this.canvas);
    [this.ink, this.paper] = [style.color, style.backgroundColor];
    const clusters = Array.from({ length: NUM_TINTS }, (_, i) => clusterColour(i));
    points.colours = rgb(clusters);
    this.background = rgb([this.paper]);
    this.draw();
  }

  /** Marks items: lists of ids; lines are pairs of ids. */
  mark(marks) {
    Object.assign(this.marks, marks);
    this.draw();
  }

  zoomBy(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
    const { left, top, scale } = this.#frame();
    const [x, y] = [left + px / scale, top + py / scale];
    const zoom = Math.min(500, Math.max(0.5, this.view.zoom * factor));
    const kept = this.view.zoom / zoom; // the point under the pointer stays there
    const near = (middle, fixed) => fixed + (middle - fixed) * kept;
    this.view = { x: near(this.view.x, x), y: near(this.view.y, y), zoom };
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
    const ranges = [this.points.x, this.points.y].map((all) => {
      const some = found.map((i) => all[i]);
      return [Math.min(...some), Math.max(...some)];
    });
    const [x, y] = ranges.map(([low, high]) => (low + high) / 2);
    const span = Math.max(...ranges.map(([low, high]) => high - low), 0.02);
    this.view = { x, y, zoom: 0.85 / span };
    this.draw();
  }

  /** Draws before the screen's next frame, once however often it is called. */
  draw() {
    this.waiting ??= requestAnimationFrame(() => this.#drawNow());
  }

  #indices(ids) {
    const at = this.points?.at ?? new Map();
    return ids.map((id) => at.get(String(id))).filter((i) => i !== undefined);
  }

  #resize() {
    this.ratio = Math.min(devicePixelRatio, 2);
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(clientWidth * this.ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * this.ratio));
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.#drawNow(); // in the same frame: the canvas is black now
  }

  /** Returns what part of the map the canvas shows, in device pixels. */
  #frame() {
    const { width, height } = this.canvas;
    const scale = 0.94 * Math.min(width, height) * this.view.zoom;
    const { x, y } = this.view;
    return { left: x - width / 2 / scale, top: y - height / 2 / scale, scale };
  }

  #drawNow() {
    this.waiting = null;
    const { canvas, context, points, ratio, image } = this;
    context.fillStyle = getComputedStyle(canvas).backgroundColor;
    if (!points || !image) return context.fillRect(0, 0, canvas.width, canvas.height);
    const started = performance.now();
    const view = this.#frame();
    // However many points there are, they cover about a quarter of the area.
    const fair = Math.sqrt((canvas.width * canvas.height) / points.x.length / 12);
    const first = Math.min(3.2, Math.max(0.7, fair / ratio));
    const radius = Math.min(5, first * Math.max(1, this.view.zoom) ** 0.3) * ratio;
    drawPoints(image, points, view, radius, this.background);
    context.putImageData(image, 0, 0);
    this.#drawMarks((i) => [
      (points.x[i] - view.left) * view.scale,
      (points.y[i] - view.top) * view.scale,
    ]);
    this.onDraw(performance.now() - started);
  }

  #drawMarks(place) {
    const { context, ratio, ink, paper, points } = this;
    const disc = (i, radius, fill, edge) => {
      context.beginPath();
      context.arc(...place(i), radius * ratio, 0, 7);
      [context.fillStyle, context.strokeStyle] = [fill, edge];
      context.lineWidth = 1.5 * ratio;
      context.fill();
      context.stroke();
    };
    const ranked = (ids, fill, edge, colour) => {
      context.font = `600 ${10.5 * ratio}px system-ui, sans-serif`;
      [context.textAlign, context.textBaseline] = ["center", "middle"];
      for (let rank = ids.length; rank > 0; rank--) {
        const [i] = this.#indices([ids[rank - 1]]);
        if (i === undefined) continue;
        disc(i, 9, fill, edge);
        context.fillStyle = colour;
        context.fillText(rank, ...place(i)); // the best on top
      }
    };
    for (const pair of this.marks.lines.map((ids) => this.#indices(ids))) {
      context.beginPath();
      pair.forEach((i) => context.lineTo(...place(i)));
      [context.strokeStyle, context.lineWidth] = [ink, 2 * ratio];
      context.stroke();
    }
    this.#indices(this.marks.history).forEach((i) => disc(i, 4.5, paper, ink));
    ranked(this.marks.other, paper, ink, ink);
    ranked(this.marks.answer, ink, paper, paper);
    const named = this.hovered ?? this.#indices(this.marks.named)[0] ?? this.chosen;
    if (named === undefined) return;
    disc(named, 6, "transparent", ink);
    const [px, py] = place(named);
    const right = px > this.canvas.width / 2; // the text goes to the side with space
    context.textAlign = right ? "right" : "left";
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    [context.strokeStyle, context.fillStyle] = [paper, ink];
    [context.lineWidth, context.lineJoin] = [5 * ratio, "round"];
    const text = points.titles[named] || points.items[named];
    const start = px + (right ? -12 : 12) * ratio;
    context.strokeText(text, start, py);
    context.fillText(text, start, py);
  }

  /** Returns the index of the item that is nearest to a pixel, if one is near. */
  #nearest([px, py], reach = PICK * this.ratio) {
    const { x, y } = this.points ?? { x: [], y: [] };
    const { left, top, scale } = this.#frame();
    const [mx, my] = [left + px / scale, top + py / scale];
    let [best, found] = [(reach / scale) ** 2, undefined];
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

  #drag(id, now) {
    const before = this.pointers.get(id);
    this.pointers.set(id, now);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    this.dragged += Math.hypot(dx, dy);
    const scale = this.#frame().scale * this.pointers.size; // two fingers: their middle
    this.view.x -= dx / scale;
    this.view.y -= dy / scale;
    const other = [...this.pointers].find(([pointer]) => pointer !== id)?.[1];
    if (other) {
      const far = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
      const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
      this.zoomBy(far(now) / far(before), ...middle);
    }
    this.draw();
  }

  #listen() {
    const { canvas, pointers } = this;
    const at = (event) => [event.offsetX * this.ratio, event.offsetY * this.ratio];
    const hover = (index) => {
      if (index !== this.hovered) this.draw();
      this.hovered = index;
    };
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.dragged = pointers.size ? Infinity : 0; // two fingers never pick
      pointers.set(event.pointerId, at(event));
    };
    canvas.onpointermove = (event) => {
      if (pointers.has(event.pointerId)) this.#drag(event.pointerId, at(event));
      else hover(this.#nearest(at(event)));
    };
    canvas.onpointerup = (event) => {
      pointers.delete(event.pointerId);
      if (this.dragged < 5 * this.ratio) this.#pick(this.#nearest(at(event)));
    };
    canvas.onpointercancel = (event) => pointers.delete(event.pointerId);
    canvas.onpointerleave = () => hover(undefined);
    canvas.onwheel = (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode ? 30 : 1); // or lines
      this.zoomBy(Math.exp(-0.002 * pixels), ...at(event));
    };
    canvas.onkeydown = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { width, height } = canvas;
      const middle = [width / 2, height / 2];
      const [dx, dy] = MOVES.get(event.key) ?? [0, 0];
      const step = (0.1 * Math.min(width, height)) / this.#frame().scale;
      this.view.x += dx * step;
      this.view.y += dy * step;
      if (dx || dy) this.draw();
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
      else if (event.key === "-") this.zoomBy(1 / 1.4);
      else if (event.key === "0") this.showAll();
      else if (event.key === "Enter") this.#pick(this.#nearest(middle, Infinity));
      else return;
      event.preventDefault();
    };
  }
}
