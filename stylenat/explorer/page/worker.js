// The static engine: mapping and synthesis by ONNX Runtime Web, apart from the page, which stays
// responsive. Only the newest question for an image of a pane is computed.

import * as ort from "../ort/ort.wasm.min.mjs";
import { latent } from "./latents.js";

ort.env.wasm.wasmPaths = new URL("../ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // threads would need headers that static hosts do not send

const MOST_LOADED = 2;
const loaded = new Map(); // model -> Promise of its facts and sessions
let about = null;

async function fetched(address, kind) {
  const response = await fetch(new URL(`../${address}`, import.meta.url));
  if (!response.ok) throw new Error(`${address} did not load: the host answered ${response.status}`);
  return response[kind]();
}

async function load(number) {
  const facts = await fetched(`models/${number}/facts.json`, "json");
  const open = async (name) => {
    const bytes = await fetched(`models/${number}/${name}.onnx`, "arrayBuffer");
    return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  };
  return { facts, mapping: await open("mapping"), synthesis: await open("synthesis") };
}

function model(number) {
  if (!loaded.has(number)) {
    const opening = load(number);
    opening.catch(() => loaded.delete(number));
    loaded.set(number, opening);
    if (loaded.size > MOST_LOADED) loaded.delete(loaded.keys().next().value);
  }
  return loaded.get(number);
}

async function run(session, values, shape, label) {
  const inputs = [new ort.Tensor("float32", values, shape)];
  if (session.inputNames.length > 1) inputs.push(new ort.Tensor("int64", [BigInt(label)], [1]));
  const named = session.inputNames.map((name, index) => [name, inputs[index]]);
  const results = await session.run(Object.fromEntries(named));
  return results[session.outputNames[0]].data;
}

async function answer({ kind, model: number, seed, label, ws }) {
  if (kind === "about") return (about ??= await fetched("explorer.json", "json"));
  const { facts, mapping, synthesis } = await model(number);
  if (kind === "facts") return facts;
  if (kind === "w") {
    about ??= await fetched("explorer.json", "json");
    const z = latent(seed, facts.z_dim, about.scheme);
    return new Float32Array(await run(mapping, z, [1, facts.z_dim], label));
  }
  return new Uint8Array(await run(synthesis, ws, [1, facts.num_ws, facts.style_dim]));
}

const questions = [];
let working = false;

async function work() {
  if (working) return;
  working = true;
  while (questions.length) {
    const place = questions.findIndex(({ kind }) => kind !== "image"); // images are made of the others
    const [question] = questions.splice(Math.max(place, 0), 1);
    try {
      postMessage({ id: question.id, answer: await answer(question) });
    } catch (error) {
      postMessage({ id: question.id, error: String(error.message ?? error) });
    }
    await new Promise((resolve) => setTimeout(resolve)); // newer questions come in
  }
  working = false;
}

onmessage = ({ data }) => {
  const old = questions.findIndex(({ kind, pane }) => kind === "image" && pane === data.pane);
  if (data.kind === "image" && old >= 0) {
    postMessage({ id: questions[old].id, answer: null });
    questions.splice(old, 1);
  }
  questions.push(data);
  work();
};
