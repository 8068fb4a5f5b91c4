// The state of the page, which its address holds after the #.

export const ROW = 100; // seeds from one row of the plane to the next
export const SEED_LIMIT = 2 ** 32;

export function initial() {
  return {
    x: 0, y: 0, // a place on the plane of seeds: seed x + 100 y where both are whole
    psi: 1, cutoff: null, // null: all blocks
    label: 0, // the number of a class, of a model that has some
    donor: 1, blocks: [], // these blocks take the second seed
    strengths: {}, // of directions, by name, in sigma
    model: 0, beside: null,
    picture: null, // the number of a picture of the user's, which takes the place of the seed
    lost: false, // whether the address was kept while a picture was shown, which it can't hold
    keyframes: [], // places [x, y], or {picture: number}
    attention: null, // [number of a head group, y, x], the query from 0 to 1 over the image
  };
}

const within = (value, low, high) => Math.min(Math.max(value, low), high);
const number = (text, fallback) =>
  text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : fallback;
const round = (value) => Number(value.toFixed(4));

export function normalized(state) {
  const y = within(round(state.y), 0, 1000);
  return { ...state, y, x: within(round(state.x), 0, SEED_LIMIT - 1 - ROW * Math.ceil(y)) };
}

export function toHash(state) {
  const query = new URLSearchParams();
  const base = initial();
  for (const key of ["x", "y", "psi", "cutoff", "label", "donor", "model", "beside"]) {
    if (state[key] !== base[key]) query.set(key, state[key]);
  }
  if (state.attention) query.set("attention", state.attention.join("_"));
  if (state.blocks.length) query.set("blocks", state.blocks.join(" "));
  for (const [name, strength] of Object.entries(state.strengths)) {
    if (strength) query.set(`d.${name}`, strength);
  }
  const places = state.keyframes.filter((keyframe) => keyframe.picture === undefined);
  if (places.length) query.set("film", places.map((place) => place.join("_")).join(" "));
  if (state.lost || state.picture !== null || places.length < state.keyframes.length) {
    query.set("picture", "not-in-this-address");
  }
  return query.toString();
}

export function fromHash(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const base = initial();
  const whole = (key, high) => {
    const value = number(query.get(key), base[key]);
    return value === null ? null : within(Math.round(value), 0, high);
  };
  const strengths = {};
  for (const [key, value] of query) {
    if (key.startsWith("d.")) strengths[key.slice(2)] = within(number(value, 0), -10, 10);
  }
  const query3 = (query.get("attention") ?? "").split("_").map(Number);
  const isQuery = query3.length === 3 && Number.isInteger(query3[0]) && query3[0] >= 0
    && query3.slice(1).every((share) => share >= 0 && share <= 1);
  const list = (key) => (query.get(key) ?? "").split(" ").filter((piece) => piece !== "");
  return normalized({
    ...base,
    x: number(query.get("x"), 0), y: number(query.get("y"), 0),
    psi: within(number(query.get("psi"), 1), -10, 10),
    cutoff: whole("cutoff", 1000), donor: whole("donor", SEED_LIMIT - 1), label: whole("label", 1e6),
    model: whole("model", 1e6), beside: whole("beside", 1e6),
    blocks: list("blocks").map(Number).filter(Number.isInteger),
    strengths, attention: isQuery ? query3 : null, lost: query.has("picture"),
    keyframes: list("film").map((k) => k.split("_").map(Number))
      .filter((k) => k.length === 2 && k.every((v) => Number.isFinite(v) && v >= 0)).slice(0, 100),
  });
}

// The class of a state in this model, which may have fewer than the one it was chosen in.
export function labelOf(state, facts) {
  return Math.min(state.label, Math.max(facts.classes.length - 1, 0));
}

// The seed at this place, or null between seeds, and if a picture takes its place.
export function seedAt(state) {
  if (state.picture !== null) return null;
  const seed = state.x + ROW * state.y;
  return Number.isInteger(state.x) && Number.isInteger(state.y) ? seed : null;
}

// The command that makes the image of this state, and whether it needs the ws file.
export function command(state, about, facts) {
  const word = about.models[state.model].word;
  const seed = seedAt(state);
  const moves = Object.entries(state.strengths).filter(([, strength]) => strength);
  const cutoff = state.cutoff === null || state.cutoff >= facts.num_ws ? null : state.cutoff;
  const isTruncated = state.psi !== 1 && cutoff !== 0;
  const truncation = isTruncated
    ? ` --trunc ${state.psi}` + (cutoff === null ? "" : ` --trunc-cutoff ${cutoff}`) : "";
  const scheme = (about.scheme === "torch" ? "" : ` --seed-scheme ${about.scheme}`)
    + classOption(state, facts);
  if (seed !== null && !state.blocks.length && !moves.length) {
    return { text: `stylenat sample ${word} --seeds ${seed}${truncation}${scheme} --grid none --outdir out` };
  }
  if (seed !== null && !moves.length) {
    const blocks = state.blocks.join(",");
    return { text: `stylenat mix ${word} --rows ${seed} --cols ${state.donor} --blocks ${blocks}`
      + `${truncation}${scheme} --out mix.png` };
  }
  if (seed !== null && !state.blocks.length && about.directions_word) {
    const sets = moves.map(([name, strength]) => ` --set ${name}:${strength}`).join("");
    return { text: `stylenat edit ${word} --seeds ${seed} --directions ${about.directions_word}`
      + `${sets}${truncation}${scheme} --out edit.png` };
  }
  return { text: `stylenat sample ${word} --ws explorer.safetensors --grid none --outdir out`,
    needsFile: true };
}

function classOption(state, facts) {
  return facts.classes.length ? ` --class ${facts.class_words[labelOf(state, facts)]}` : "";
}

export function filmCommand(state, about, facts) {
  const seeds = state.keyframes.map((keyframe) => keyframe.picture === undefined
    ? seedAt({ x: keyframe[0], y: keyframe[1], picture: null }) : null);
  if (seeds.length < 2 || seeds.includes(null)) return null;
  const word = about.models[state.model].word;
  const truncation = state.psi === 1 ? "" : ` --trunc ${state.psi}`;
  return `stylenat film ${word} --seeds ${seeds.join(",")}${truncation}${classOption(state, facts)} --out film.webp`;
}
