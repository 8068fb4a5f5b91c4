// The page: controls change the state, and the state becomes images.

import { Attention } from "./attention.js";
import { ServerEngine, StaticEngine } from "./engines.js";
import { Film } from "./film.js";
import { Panes } from "./panes.js";
import { Pictures, listenToDrops } from "./picture.js";
import {
  ROW, SEED_LIMIT, command, filmCommand, fromHash, labelOf, normalized, toHash,
} from "./state.js";
import { wsFile } from "./styles.js";

const $ = (id) => document.getElementById(id);
const isStatic = document.querySelector("meta[name=stylenat-engine]").content === "static";
const engine = isStatic ? new StaticEngine() : new ServerEngine();
const SIDES = { none: [1, 0], coarse: [0, 8], middle: [16, 32], fine: [64, Infinity] };

let state = fromHash(location.hash);
let about, panes, film, pictures = null, walking = null, hashTimer = null;

function say(error) {
  $("error").hidden = !error;
  $("error").textContent = error ?? "";
}

// The state

function set(change) {
  const leaves = "x" in change || "y" in change; // a picture, for a place on the plane of seeds
  state = normalized({ ...state, ...(leaves ? { picture: null, lost: false } : {}), ...change });
  if (state.model !== panes.model) { // its blocks may be others
    begin().catch((error) => say(error.message));
    return;
  }
  show();
  panes.render(state);
  clearTimeout(hashTimer); // browsers allow few changes of the address a second
  hashTimer = setTimeout(() => history.replaceState(null, "", `#${toHash(state)}`), 150);
}

function show() {
  const facts = panes.facts;
  const values = {
    seed: Math.floor(state.x) + ROW * Math.floor(state.y), fraction: state.x % 1, y: state.y,
    psi: state.psi, cutoff: state.cutoff ?? facts.num_ws, donor: state.donor,
    label: labelOf(state, facts), model: state.model, scrub: state.model, beside: state.beside ?? "",
  };
  for (const [id, value] of Object.entries(values)) {
    if (document.activeElement !== $(id) || $(id).type !== "number") $(id).value = value;
  }
  for (const output of document.querySelectorAll("output")) {
    output.textContent = $(output.htmlFor.value).value;
  }
  for (const box of $("blocks").querySelectorAll("input")) {
    box.checked = state.blocks.includes(Number(box.value));
  }
  for (const slider of $("directions").querySelectorAll("input")) {
    slider.value = state.strengths[slider.name] ?? 0;
  }
  const { text, needsFile } = command(state, about, facts);
  $("command").textContent = needsFile ? `${text}\n(save its ws file first, with the button below)` : text;
  film?.show(state.keyframes, filmCommand(state, about, facts));
  pictures?.show(state);
}

// Controls

function buildBlocks(facts) {
  $("blocks").replaceChildren(...facts.block_resolutions.map((side, block) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", value: block });
    label.append(box, `${block}: ${side}×${side}`);
    return label;
  }));
  $("cutoff").max = facts.num_ws;
  $("class-box").hidden = !facts.classes.length;
  $("label").replaceChildren(...facts.classes.map(option));
}

function buildDirections() {
  $("direction-box").hidden = !about.directions.length;
  $("directions").replaceChildren(...about.directions.map(({ name }, index) => {
    const label = document.createElement("label");
    const output = document.createElement("output");
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", id: `direction${index}`, name, min: -3, max: 3, step: 0.1 });
    label.htmlFor = output.htmlFor = slider.id; // an output inside a label would be what it names
    label.append(`${name} `, output, slider);
    return label;
  }));
}

function option(textContent, value) {
  return Object.assign(document.createElement("option"), { textContent, value });
}

function buildModels() {
  $("model-box").hidden = about.models.length < 2;
  const options = () => about.models.map(({ name }, index) => option(name, index));
  $("model").replaceChildren(...options());
  $("beside").replaceChildren(option("none", ""), ...options());
  $("scrub").max = about.models.length - 1;
}

const whole = (text) => Math.min(Math.max(Math.round(Number(text) || 0), 0), SEED_LIMIT - 1);

function listen() {
  $("seed").oninput = (e) => set({ x: whole(e.target.value), y: 0 });
  $("fraction").oninput = (e) => set({ x: Math.floor(state.x) + Number(e.target.value) });
  $("y").oninput = (e) => set({ y: Number(e.target.value) });
  $("psi").oninput = (e) => set({ psi: Number(e.target.value) });
  $("cutoff").oninput = (e) => {
    const cutoff = Number(e.target.value);
    set({ cutoff: cutoff >= panes.facts.num_ws ? null : cutoff });
  };
  $("label").oninput = (e) => set({ label: Number(e.target.value) });
  $("donor").oninput = (e) => set({ donor: whole(e.target.value) });
  $("blocks").onchange = () => set({
    blocks: [...$("blocks").querySelectorAll(":checked")].map((box) => Number(box.value)),
  });
  for (const button of document.querySelectorAll("[data-blocks]")) {
    const [low, high] = SIDES[button.dataset.blocks];
    button.onclick = () => set({
      blocks: panes.facts.block_resolutions.map((side, block) => [side, block])
        .filter(([side]) => low <= side && side <= high).map(([, block]) => block),
    });
  }
  $("directions").oninput = (e) => set({
    strengths: { ...state.strengths, [e.target.name]: Number(e.target.value) },
  });
  $("zero").onclick = () => set({ strengths: {} });
  for (const id of ["model", "scrub"]) $(id).oninput = (e) => set({ model: Number(e.target.value) });
  $("beside").oninput = (e) => set({ beside: e.target.value === "" ? null : Number(e.target.value) });
  $("speed").oninput = show;
  $("controls").onsubmit = (e) => e.preventDefault();
  window.onhashchange = () => {
    state = fromHash(location.hash);
    begin();
  };
}

function step(dx, dy) {
  set({ x: state.x + dx, y: state.y + dy });
}

function listenToButtons() {
  $("previous").onclick = () => set({ x: Math.ceil(state.x) - 1 });
  $("next").onclick = () => set({ x: Math.floor(state.x) + 1 });
  $("random").onclick = () => set({ x: Math.floor(Math.random() * SEED_LIMIT), y: 0 });
  $("walk").onclick = () => walk(walking === null);
  $("png").onclick = () => {
    walk(false);
    panes.image().then((blob) => download(blob, "stylenat.png"));
  };
  $("link").onclick = () => {
    history.replaceState(null, "", `#${toHash(state)}`);
    copy(location.href, $("link"));
  };
  $("copy-command").onclick = () => copy(command(state, about, panes.facts).text, $("copy-command"));
  $("save-w").onclick = () => panes.ws(state)
    .then((ws) => download(wsFile(ws, panes.facts), "explorer.safetensors"), (error) => say(error.message));
  for (const canvas of document.querySelectorAll("#panes canvas")) listenToCanvas(canvas);
  listenToDrops((file) => pictures
    ? pictures.search(file).catch((error) => say(error.message))
    : say("This page has no server that could look for the style of a picture: use stylenat explore without "
      + "--static, or stylenat project."));
}

function listenToCanvas(canvas) {
  let from = null;
  canvas.onpointerdown = (e) => {
    canvas.setPointerCapture(e.pointerId);
    from = { left: e.clientX, top: e.clientY, x: state.x, y: state.y };
  };
  canvas.onpointermove = (e) => {
    if (!from) return;
    const width = canvas.clientWidth / 2; // half an image leads to the next seed
    set({ x: from.x - (e.clientX - from.left) / width, y: from.y - (e.clientY - from.top) / width });
  };
  canvas.onpointerup = canvas.onpointercancel = () => { from = null; };
  canvas.onkeydown = (e) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!move) return;
    e.preventDefault();
    const size = e.shiftKey ? 0.05 : 1;
    step(size * move[0], size * move[1]);
  };
}

function walk(starts) {
  cancelAnimationFrame(walking);
  walking = null;
  $("walk").setAttribute("aria-pressed", String(starts));
  if (!starts) return;
  let last = performance.now();
  const move = (now) => {
    const seconds = Math.min((now - last) / 1000, 0.2);
    last = now;
    if (!panes.isBusy) step(Number($("speed").value) * seconds, 0);
    else last -= seconds * 1000;
    walking = requestAnimationFrame(move);
  };
  walking = requestAnimationFrame(move);
}

// What leaves the page

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    window.prompt("This browser does not let a page copy. Copy it from here:", text);
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}

// The start

async function begin() {
  if (state.model >= about.models.length) state.model = 0;
  if (state.beside !== null && state.beside >= about.models.length) state.beside = null;
  await panes.prepare(state);
  buildBlocks(panes.facts);
  set({});
}

async function start() {
  try {
    engine.onfail = say;
    await engine.open();
    about = await engine.ask({ kind: "about" });
    panes = new Panes(engine, about, say, $("status"));
    film = new Film(panes, () => state, set, say, { download, copy });
    if (!isStatic) {
      new Attention(engine, panes, () => state, set, say);
      pictures = new Pictures(engine, panes, () => state, set, say, download);
    }
    buildDirections();
    buildModels();
    $("note").textContent = isStatic
      ? "This page computes in your browser, and sends nothing anywhere. Logarithm and cosine are your "
        + "browser's, so a few pixels differ by 1 of 255 from those of stylenat sample. The snapshots of a "
        + "run, what attention looks at, and the styles of your own pictures need Python: stylenat explore."
      : "The model runs in Python on this machine. The images are those of stylenat sample.";
    listen();
    listenToButtons();
    await begin();
  } catch (error) {
    $("status").textContent = "";
    say(error.message);
  }
}

start();
