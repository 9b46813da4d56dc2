// Draws many points into an image, pixel by pixel: canvas paths are too slow for these.

const PHASES = 4; // of a pixel in each direction, so that slow movements are smooth

/** Returns the coverage (0 to 256) of a disc around each phase of a pixel. */
function discs(radius, opacity) {
  // The least: centres are at most 7/8 of a pixel from its start, and edges are soft.
  const reach = Math.ceil(radius + 7 / 8) - 1;
  const side = 2 * reach + 1;
  const masks = Array.from({ length: PHASES * PHASES }, (_, phase) => {
    const cx = reach + ((phase % PHASES) + 0.5) / PHASES;
    const cy = reach + (Math.floor(phase / PHASES) + 0.5) / PHASES;
    return Uint16Array.from({ length: side * side }, (_, i) => {
      const far = Math.hypot((i % side) + 0.5 - cx, Math.floor(i / side) + 0.5 - cy);
      return 256 * opacity * Math.min(1, Math.max(0, radius + 0.5 - far));
    });
  });
  return { reach, side, masks };
}

/** Draws points over the background of an image.
 *
 * `points` has x and y (map units), and tint: the index of its colour in colours (RGB,
 * three bytes each); `view` has left, top and scale (pixels a unit). */
export function drawPoints(image, points, view, radius, [red, green, blue]) {
  const { data, width, height } = image;
  // A pixel as 32 bits; all of today's machines are little-endian.
  new Uint32Array(data.buffer).fill(0xff000000 | (blue << 16) | (green << 8) | red);
  const { reach, side, masks } = discs(radius, 0.8);
  const { x, y, tint, colours } = points;
  for (let i = 0; i < x.length; i++) {
    const px = (x[i] - view.left) * view.scale;
    const py = (y[i] - view.top) * view.scale;
    const left = Math.floor(px) - reach;
    const top = Math.floor(py) - reach;
    if (left + side <= 0 || top + side <= 0 || left >= width || top >= height) continue;
    const phase = Math.floor((px - Math.floor(px)) * PHASES);
    const mask = masks[phase + PHASES * Math.floor((py - Math.floor(py)) * PHASES)];
    const colour = 3 * tint[i];
    const [first, end] = [Math.max(0, -left), Math.min(side, width - left)];
    for (let j = Math.max(0, -top); j < Math.min(side, height - top); j++) {
      let at = 4 * ((top + j) * width + left + first);
      for (let k = first; k < end; k++, at += 4) {
        const part = mask[j * side + k];
        data[at] += ((colours[colour] - data[at]) * part) >> 8;
        data[at + 1] += ((colours[colour + 1] - data[at + 1]) * part) >> 8;
        data[at + 2] += ((colours[colour + 2] - data[at + 2]) * part) >> 8;
      }
    }
  }
}

/** Returns the RGB bytes of CSS colours, as the browser reads them. */
export function rgb(colours) {
  const canvas = new OffscreenCanvas(colours.length, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  colours.forEach((colour, i) => {
    context.fillStyle = colour;
    context.fillRect(i, 0, 1, 1);
  });
  return context.getImageData(0, 0, canvas.width, 1).data.filter((_, i) => i % 4 !== 3);
}
