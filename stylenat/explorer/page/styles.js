// From a state to ws, in float32, operation by operation as PyTorch computes them.

import { ROW, labelOf } from "./state.js";

const f = Math.fround;

// w at a place of the plane: a bilinear mix of the w of the four seeds around it.
export async function placeW(wOf, x, y) {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [right, down] = [x - left, y - top];
  const corners = [];
  for (const [dx, dy, weight] of [
    [0, 0, (1 - right) * (1 - down)], [1, 0, right * (1 - down)],
    [0, 1, (1 - right) * down], [1, 1, right * down],
  ]) {
    if (weight > 0) corners.push([left + dx + ROW * (top + dy), f(weight)]);
  }
  const ws = await Promise.all(corners.map(([seed]) => wOf(seed)));
  if (ws.length === 1) return ws[0];
  const w = new Float32Array(ws[0].length);
  ws.forEach((one, index) => {
    for (let i = 0; i < w.length; i++) w[i] += f(corners[index][1] * one[i]);
  });
  return w;
}

function truncated(w, average, psi) {
  if (psi === 1) return w;
  return w.map((value, i) => average[i] + f(f(psi) * f(value - average[i])));
}

// The w of a block, of a source that has one w for all blocks or one for each.
function blockW(source, block, size) {
  return source.length === size ? source : source.subarray(block * size, (block + 1) * size);
}

// ws [num_ws * style_dim] of a state. `facts` is the model's, `wOf(seed)` gives its w. A film gives
// the w of its own place, and a picture its ws.
export async function wsOf(state, facts, directions, wOf, w = null) {
  const [base, donor] = await Promise.all([
    w ?? placeW(wOf, state.x, state.y),
    state.blocks.length ? wOf(state.donor) : null,
  ]);
  const cutoff = state.cutoff ?? facts.num_ws;
  const size = facts.style_dim;
  const ws = new Float32Array(facts.num_ws * size);
  const average = facts.classes.length ? facts.w_avg[labelOf(state, facts)] : facts.w_avg;
  const done = new Map(); // each source is truncated once
  for (let block = 0; block < facts.num_ws; block++) {
    const source = donor && state.blocks.includes(block) ? donor : base;
    const psi = block < cutoff ? state.psi : 1;
    const key = `${source === donor} ${psi} ${source.length === size ? "" : block}`;
    if (!done.has(key)) done.set(key, truncated(blockW(source, block, size), average, psi));
    ws.set(done.get(key), block * size);
  }
  for (const direction of directions) {
    const strength = state.strengths[direction.name] ?? 0;
    if (!strength || direction.vector.length !== size) continue; // it belongs to another model
    const step = f(strength * direction.sigma);
    for (const block of direction.blocks) {
      if (block >= facts.num_ws) continue;
      for (let i = 0; i < size; i++) ws[block * size + i] += f(step * direction.vector[i]);
    }
  }
  return ws;
}

// A closed smooth walk through keyframes, which are places of the plane or pictures: Catmull-Rom through
// their w, or ws if one of them is a picture; t counts keyframes. `pictureWs(number)` gives ws.
export async function filmW(keyframes, t, wOf, pictureWs, blocks) {
  const count = keyframes.length;
  const first = Math.floor(t);
  const u = t - first;
  const at = async (i) => {
    const keyframe = keyframes[((first + i) % count + count) % count];
    return keyframe.picture === undefined ? placeW(wOf, ...keyframe) : pictureWs(keyframe.picture);
  };
  const sources = await Promise.all([-1, 0, 1, 2].map(at));
  const longest = Math.max(...sources.map(({ length }) => length));
  const [a, b, c, d] = sources.map((w) => w.length === longest ? w : repeated(w, blocks));
  return b.map((value, i) => value + 0.5 * u * (c[i] - a[i]
    + u * (2 * a[i] - 5 * value + 4 * c[i] - d[i] + u * (3 * (value - c[i]) + d[i] - a[i]))));
}

function repeated(w, blocks) {
  const ws = new Float32Array(w.length * blocks);
  for (let block = 0; block < blocks; block++) ws.set(w, block * w.length);
  return ws;
}

// A ws file of one style, as `stylenat sample --ws` reads it.
export function wsFile(ws, facts, name = "explorer") {
  const header = JSON.stringify({
    __metadata__: { stylenat_format: "1", kind: "ws", names: JSON.stringify([name]),
      model_sha256: facts.sha256, stylenat_version: "explorer" },
    ws: { dtype: "F32", shape: [1, facts.num_ws, facts.style_dim], data_offsets: [0, 4 * ws.length] },
  });
  const text = new TextEncoder().encode(header + " ".repeat((8 - header.length % 8) % 8));
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(text.length), true);
  return new Blob([length.buffer, text, ws]);
}
