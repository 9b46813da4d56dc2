// Draws many points into an image, pixel by pixel: canvas paths are too slow for these.

const PHASES = 4; // of a pixel, in each direction, so that slow movements are smooth

/** Returns the coverage (0 to 256) of a disc around each phase of a pixel. */
function discs(radius, opacity) {
  const reach = Math.ceil(radius + 1);
  const side = 2 * reach + 1;
  const masks = [];
  for (let phase = 0; phase < PHASES * PHASES; phase++) {
    const cx = reach + ((phase % PHASES) + 0.5) / PHASES;
    const cy = reach + (Math.floor(phase / PHASES) + 0.5) / PHASES;
    const mask = new Uint16Array(side * side);
    for (let i = 0; i < mask.length; i++) {
      const far = Math.hypot((i % side) + 0.5 - cx, Math.floor(i / side) + 0.5 - cy);
      const covered = Math.min(1, Math.max(0, radius + 0.5 - far));
      mask[i] = Math.round(covered * opacity * 256);
    }
    masks.push(mask);
  }
  return { reach, side, masks };
}

/** Draws points over the background of an image.
 *
 * `points` has x and y (map units), and tint: the index of its colour in colours (RGB,
 * three bytes each); `view` has left, top and scale (pixels a unit). */
export function drawPoints(image, points, view, radius, background) {
  const { data, width, height } = image;
  const [red, green, blue] = background;
  // One pixel as 32 bits, little-endian as all of today's machines.
  new Uint32Array(data.buffer).fill(0xff000000 | (blue << 16) | (green << 8) | red);
  const { reach, side, masks } = discs(radius, 0.8);
  const { x, y, tint, colours } = points;
  for (let i = 0; i < x.length; i++) {
    const px = (x[i] - view.left) * view.scale;
    const py = (y[i] - view.top) * view.scale;
    const column = Math.floor(px);
    const row = Math.floor(py);
    if (column < -reach || row < -reach) continue;
    if (column >= width + reach || row >= height + reach) continue;
    const phase = Math.floor((px - column) * PHASES);
    const mask = masks[phase + PHASES * Math.floor((py - row) * PHASES)];
    const colour = 3 * tint[i];
    const r = colours[colour];
    const g = colours[colour + 1];
    const b = colours[colour + 2];
    const first = Math.max(0, reach - column);
    const end = Math.min(side, width + reach - column);
    for (let j = Math.max(0, reach - row); j < side; j++) {
      const line = row - reach + j;
      if (line >= height) break;
      let at = 4 * (line * width + column - reach + first);
      for (let k = first; k < end; k++, at += 4) {
        const part = mask[j * side + k];
        if (part === 0) continue;
        data[at] += ((r - data[at]) * part) >> 8;
        data[at + 1] += ((g - data[at + 1]) * part) >> 8;
        data[at + 2] += ((b - data[at + 2]) * part) >> 8;
      }
    }
  }
}

/** Returns the RGB bytes of CSS colours, as the browser reads them. */
export function rgb(colours) {
  const canvas = new OffscreenCanvas(Math.max(1, colours.length), 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  colours.forEach((colour, i) => {
    context.fillStyle = colour;
    context.fillRect(i, 0, 1, 1);
  });
  const { data } = context.getImageData(0, 0, canvas.width, 1);
  return data.filter((_, i) => i % 4 !== 3);
}
