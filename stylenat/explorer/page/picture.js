// A picture of the user's own: it goes to the server, which looks for the style whose image is most like
// it. What was found is a place to start from, as a seed is.

import { paint } from "./panes.js";
import { wsFile } from "./styles.js";

const $ = (id) => document.getElementById(id);
const MOST_BYTES = 20e6, MOST_STEPS = 2000; // as in stylenat/explorer/projecting.py
const MOST_KEPT = 100;
const NOT_HELD = "The address of this page cannot hold a picture of yours: save its ws file to keep it.";
const LOST = "This address was kept while a picture was shown. It does not hold the picture: drop it here "
  + "again, or make images of its ws file with stylenat sample --ws.";

function decoded(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Kind === Uint8Array ? bytes : new Float32Array(bytes.buffer);
}

function put(canvas, text, side) {
  paint(canvas, decoded(text, Uint8Array), side);
}

export class Pictures {
  // `kept`: what was found, which a state names by number.
  constructor(engine, panes, state, set, say, download) {
    Object.assign(this, { engine, panes, state, set, say, download, kept: panes.pictures, file: null });
    this.running = null;
    $("picture-box").hidden = false;
    $("picture-file").onchange = ({ target }) => target.files.length && this.search(target.files[0]);
    $("picture-again").onclick = () => this.search(this.file);
    $("picture-stop").onclick = () => this.running?.abort();
    $("picture-save").onclick = () => {
      const { ws, facts, name } = this.kept[this.state().picture];
      this.download(wsFile(ws, facts, name), `${name}.safetensors`);
    };
  }

  // The newest picture wins: the search for an older one ends.
  async search(file) {
    this.running?.abort();
    const steps = Math.round(Number($("picture-steps").value));
    if (!(steps >= 1 && steps <= MOST_STEPS)) return this.say(`Steps must be from 1 to ${MOST_STEPS}.`);
    if (file.size > MOST_BYTES) return this.say(`A picture must not have more than 20 MB: ${file.name}`);
    const { model, label } = this.state();
    const running = this.running = new AbortController();
    const job = { name: plain(file.name), model, steps, facts: await this.panes.factsOf(model), last: null };
    this.file = file;
    this.say(null);
    this.begin(steps);
    try {
      const options = { model, label, steps, space: $("picture-space").value };
      for await (const line of this.engine.project(file, options, running.signal)) this.take(job, line);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(job, running, error.message);
      else if (job.last && running === this.running) this.keep(job, job.last, "Stopped. ");
    }
    if (running === this.running) this.end(job);
  }

  begin(steps) {
    $("picture-progress").hidden = false;
    Object.assign($("picture-bar"), { max: steps, value: 0, hidden: false });
    $("picture-stop").disabled = false;
    $("picture-again").disabled = true;
    $("picture-status").textContent = "Sending the picture…";
  }

  end(job) {
    this.running = null;
    $("picture-bar").hidden = true;
    $("picture-stop").disabled = true;
    $("picture-again").disabled = false;
    if (!job.kept && !job.failed) $("picture-status").textContent = "Stopped.";
  }

  fail(job, running, sentence) {
    job.failed = true;
    if (running !== this.running) return;
    $("picture-status").textContent = "";
    this.say(sentence);
  }

  // One line of the server's answer.
  take(job, line) {
    if (line.error) return this.fail(job, this.running, line.error);
    if (line.begun) {
      put($("picture-given"), line.begun.pixels, job.facts.resolution);
      const found = $("picture-found");
      found.getContext("2d").clearRect(0, 0, found.width, found.height);
      job.blurs = line.begun.loss === "pixels";
    } else if (line.measuring) {
      $("picture-status").textContent = `Measuring the model's own images: ${line.measuring} of ${line.of}`;
    } else if (line.step) {
      $("picture-bar").value = line.step;
      $("picture-status").textContent = `Step ${line.step} of ${job.steps}, PSNR ${line.psnr.toFixed(1)} dB`;
      if (line.pixels) {
        put($("picture-found"), line.pixels, job.facts.resolution);
        job.last = { ws: line.ws, psnr: line.psnr, step: line.step };
      }
    } else if (line.found) {
      put($("picture-found"), line.found.pixels, job.facts.resolution);
      this.keep(job, line.found, "");
    } else if (line.superseded) {
      $("picture-status").textContent = "A newer picture, of another page, came first.";
      job.failed = true;
    }
  }

  // What was found becomes a place to start from, and the page shows it.
  keep(job, { ws, psnr, distance, sigmas, is_far: isFar, step }, before) {
    job.kept = true;
    const numbers = distance === undefined
      ? `PSNR ${psnr.toFixed(1)} dB after step ${step} of ${job.steps}; nothing else was measured.`
      : `PSNR ${psnr.toFixed(1)} dB, distance ${distance.toFixed(2)}, w at ${sigmas.toFixed(2)} sigma.`;
    const far = isFar ? " Far from what the model makes: this is not the picture." : "";
    const blurs = job.blurs ? " Only pixels were compared, which blurs: EfficientNet-Lite0 is not installed "
      + "(pip install 'stylenat[project]')." : "";
    const said = before + numbers + far + blurs;
    if (this.kept.length >= MOST_KEPT) return this.say(`This page keeps ${MOST_KEPT} pictures: load it again.`);
    this.kept.push({ name: job.name, ws: decoded(ws, Float32Array), facts: job.facts, said });
    this.set({ picture: this.kept.length - 1, lost: false });
    $("picture-status").textContent = said;
  }

  // What the state says of pictures.
  show({ picture, keyframes, lost }) {
    const held = picture !== null || keyframes.some((keyframe) => keyframe.picture !== undefined);
    $("picture-note").textContent = held ? NOT_HELD : lost ? LOST : "";
    $("picture-save").hidden = picture === null;
    if (picture !== null && !this.running) $("picture-status").textContent = this.kept[picture].said;
    $("pictures").replaceChildren(...this.kept.map(({ name }, index) => {
      const item = document.createElement("span");
      const go = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      go.setAttribute("aria-pressed", String(index === picture));
      go.onclick = () => this.set({ picture: index, lost: false });
      item.setAttribute("role", "listitem");
      item.append(go);
      return item;
    }));
  }
}

// A file can be dropped anywhere on the page; otherwise a browser would leave it and show the file.
export function listenToDrops(take) {
  let depth = 0; // dragenter and dragleave come for every element on the way
  const mark = (change) => {
    depth = Math.max(depth + change, 0);
    document.body.classList.toggle("dropping", depth > 0);
  };
  const hasFile = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  window.addEventListener("dragenter", (e) => hasFile(e) && mark(1));
  window.addEventListener("dragleave", (e) => hasFile(e) && mark(-1));
  window.addEventListener("dragover", (e) => hasFile(e) && e.preventDefault());
  window.addEventListener("drop", (e) => {
    if (!hasFile(e)) return;
    e.preventDefault();
    mark(-depth);
    if (e.dataTransfer.files.length) take(e.dataTransfer.files[0]);
  });
}

// A name that ws files take, as `stylenat project` makes it.
function plain(name) {
  const stem = name.replace(/\.[^.]*$/, "");
  return stem.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-._]+|[-._]+$/g, "").slice(0, 60) || "picture";
}
