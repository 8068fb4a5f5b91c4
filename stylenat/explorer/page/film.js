// The strip of keyframes, its playing, and its recording in the browser.

import { labelOf } from "./state.js";
import { filmW, wsOf } from "./styles.js";

const $ = (id) => document.getElementById(id);

export class Film {
  constructor(panes, state, set, say, { download, copy }) {
    Object.assign(this, { panes, state, set, say, download, copy });
    this.timer = null;
    $("add-keyframe").onclick = () => {
      const { x, y, picture, keyframes } = this.state();
      const keyframe = picture === null ? [x, y] : { picture };
      this.set({ keyframes: [...keyframes, keyframe].slice(0, 100) });
    };
    $("clear").onclick = () => this.set({ keyframes: [] });
    $("play").onclick = () => this.play(this.timer === null);
    $("record").onclick = () => this.record();
    $("seconds").oninput = () => this.set({});
  }

  show(keyframes, command) {
    $("keyframes").replaceChildren(...keyframes.map((keyframe, index) => {
      const item = document.createElement("span");
      const { picture } = keyframe;
      const textContent = picture === undefined ? keyframe.join(", ") : this.panes.pictures[picture].name;
      const go = Object.assign(document.createElement("button"), { type: "button", textContent });
      const drop = Object.assign(document.createElement("button"), { type: "button", textContent: "×" });
      drop.setAttribute("aria-label", `Remove keyframe ${index + 1}`);
      go.onclick = () => this.set(picture === undefined ? { x: keyframe[0], y: keyframe[1] } : { picture });
      drop.onclick = () => this.set({ keyframes: keyframes.filter((_, other) => other !== index) });
      item.setAttribute("role", "listitem");
      item.append(go, drop);
      return item;
    }));
    for (const id of ["play", "record"]) $(id).disabled = keyframes.length < 2;
    if (command && !$("film-command")) {
      const button = Object.assign(document.createElement("button"), {
        type: "button", id: "film-command", textContent: "Copy film command",
      });
      $("clear").after(button);
    }
    if ($("film-command")) {
      $("film-command").hidden = !command;
      $("film-command").onclick = () => this.copy(command, $("film-command"));
    }
  }

  get length() { return this.state().keyframes.length; }
  get seconds() { return Number($("seconds").value); }

  // ws of the film at time t, in keyframes; the controls apply to all of it.
  async frame(t) {
    const state = this.state();
    const facts = this.panes.facts;
    const wOf = this.panes.wOf(state.model, labelOf(state, facts));
    const pictureWs = (number) => this.panes.pictureWs(number, facts);
    const w = await filmW(state.keyframes, t, wOf, pictureWs, facts.num_ws);
    return wsOf(state, facts, this.panes.about.directions, wOf, w);
  }

  play(starts) {
    clearTimeout(this.timer);
    this.timer = null;
    $("play").setAttribute("aria-pressed", String(starts));
    if (!starts) return;
    const begin = performance.now();
    const next = async () => {
      if (this.length < 2) return this.play(false);
      const t = ((performance.now() - begin) / 1000 / this.seconds) % this.length;
      try {
        await this.panes.renderWs(await this.frame(t), this.state().model);
      } catch (error) {
        this.say(error.message);
        return this.play(false);
      }
      if (this.timer !== null) this.timer = setTimeout(next, 10);
    };
    this.timer = setTimeout(next, 0);
  }

  // One round of the film, frame by frame, as WebM.
  async record() {
    const canvas = $("image0");
    if (!canvas.captureStream || !window.MediaRecorder) {
      return this.say("This browser cannot record a canvas: use the film command instead.");
    }
    this.play(false);
    const stream = canvas.captureStream(30);
    const recorder = new MediaRecorder(stream, { videoBitsPerSecond: 8e6 });
    const parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => this.download(new Blob(parts, { type: recorder.mimeType }), "stylenat.webm");
    recorder.start();
    $("record").disabled = true;
    const begin = performance.now();
    try {
      for (;;) {
        const t = (performance.now() - begin) / 1000 / this.seconds;
        if (t >= this.length || this.length < 2) break;
        await this.panes.renderWs(await this.frame(t), this.state().model);
      }
    } catch (error) {
      this.say(error.message);
    }
    $("record").disabled = false;
    recorder.stop();
  }
}
