// One or two images of the same state, each of its own model.

import { labelOf } from "./state.js";
import { wsOf } from "./styles.js";

const MOST_KEPT = 512; // w of so many seeds; a seed's is asked for once

// RGB pixels onto a canvas.
export function paint(canvas, pixels, side) {
  const image = new ImageData(side, side);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  if (canvas.width !== side) canvas.width = canvas.height = side;
  canvas.classList.toggle("smooth", side > 128);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export class Panes {
  constructor(engine, about, say, status) {
    Object.assign(this, { engine, about, say, status });
    this.allFacts = new Map();
    this.seeds = new Map();
    this.pictures = []; // what was found for the user's pictures
    this.panes = [0, 1].map((pane) => ({
      pane, canvas: document.getElementById(`image${pane}`), busy: false, next: null, error: null,
      previewed: false, turn: 0,
    }));
    this.times = [];
  }

  get facts() { return this.allFacts.get(this.model); }
  get isBusy() { return this.panes.some(({ busy, previewed }) => busy && !previewed); }

  async factsOf(model) {
    if (!this.allFacts.has(model)) {
      this.allFacts.set(model, await this.engine.ask({ kind: "facts", model }));
    }
    return this.allFacts.get(model);
  }

  async prepare(state) {
    await this.factsOf(state.model);
    this.model = state.model;
  }

  wOf(model, label) {
    return (seed) => {
      const key = `${model} ${label} ${seed}`;
      if (!this.seeds.has(key)) {
        const asked = this.engine.ask({ kind: "w", model, seed, label });
        asked.catch(() => this.seeds.delete(key));
        this.seeds.set(key, asked);
        if (this.seeds.size > MOST_KEPT) this.seeds.delete(this.seeds.keys().next().value);
      }
      return this.seeds.get(key);
    };
  }

  async ws(state, model = state.model) {
    const facts = await this.factsOf(model);
    const found = state.picture === null ? null : this.pictureWs(state.picture, facts);
    return wsOf(state, facts, this.about.directions, this.wOf(model, labelOf(state, facts)), found);
  }

  // The ws of a picture; those of another model are used if they fit, as --any-model does.
  pictureWs(number, facts) {
    const { ws, name } = this.pictures[number];
    if (ws.length !== facts.num_ws * facts.style_dim) {
      throw new Error(`${name} was found in a model of another shape: choose that one, or a seed.`);
    }
    return ws;
  }

  render(state) {
    const models = [state.model, state.beside];
    document.getElementById("pane1").hidden = state.beside === null;
    if (state.beside === null) this.panes[1].error = null;
    this.panes.forEach((pane, index) => {
      if (models[index] !== null) this.draw(pane, { model: models[index], ws: () => this.ws(state, models[index]) });
    });
  }

  // An image of ws that are not a state's: of a film.
  renderWs(ws, model) {
    return this.draw(this.panes[0], { model, ws: async () => ws, isFrame: true }); // no previews in a recording
  }

  // Only one question of a pane is on its way; the newest waits, and replaces what waited. Once a preview is
  // there, the newest need not wait: the server ends the older image.
  async draw(pane, job) {
    if (pane.busy && !pane.previewed) {
      pane.next = job;
      return;
    }
    Object.assign(pane, { busy: true, previewed: false, next: null });
    const turn = ++pane.turn;
    const begin = performance.now();
    const preview = (small) => {
      if (turn !== pane.turn) return;
      this.preview(pane, small);
      if (pane.next) this.draw(pane, pane.next);
    };
    try {
      const facts = await this.factsOf(job.model);
      const ws = await job.ws();
      const question = { kind: "image", pane: pane.pane, model: job.model, ws };
      const pixels = await this.engine.ask(this.engine.previews && !job.isFrame ? { ...question, preview } : question);
      if (turn !== pane.turn) return;
      if (pixels) this.put(pane, pixels, facts, job.model, begin);
      if (pixels && pane.pane === 0) this.ondrawn?.(job.model, ws);
      pane.error = null;
    } catch (error) {
      if (turn !== pane.turn) return;
      pane.error = error.message;
    }
    this.say(this.panes.find(({ error }) => error)?.error); // one pane does not hide what ails the other
    pane.busy = false;
    if (pane.next) await this.draw(pane, pane.next);
  }

  preview(pane, pixels) {
    pane.previewed = true;
    paint(pane.canvas, pixels, Math.round(Math.sqrt(pixels.length / 3)));
    pane.canvas.classList.add("smooth"); // it is scaled up
    pane.canvas.dataset.previews = Number(pane.canvas.dataset.previews ?? 0) + 1;
  }

  put(pane, pixels, facts, model, begin) {
    const side = facts.resolution;
    paint(pane.canvas, pixels, side);
    pane.canvas.dataset.drawn = Number(pane.canvas.dataset.drawn ?? 0) + 1;
    document.getElementById(`caption${pane.pane}`).textContent =
      this.about.models.length > 1 ? this.about.models[model].name : "";
    const milliseconds = performance.now() - begin;
    this.times = [...this.times.slice(-9), milliseconds];
    const mean = this.times.reduce((a, b) => a + b) / this.times.length;
    this.status.textContent = `${side}×${side}, ${mean.toFixed(0)} ms an image`;
  }

  // The whole image as a PNG, not its preview.
  async image() {
    while (this.panes[0].busy) await new Promise((resolve) => setTimeout(resolve, 20));
    return new Promise((resolve) => this.panes[0].canvas.toBlob(resolve, "image/png"));
  }
}
