// The two engines behind one interface. A question is {kind: "about" | "facts" | "w" | "image", model,
// seed, label, pane, ws}. Its answer is an object, w (Float32Array) or RGB pixels (Uint8Array); null stands
// for an image that a newer question has made pointless. The server alone knows {kind: "places"}, and
// pane 2 of {kind: "image", place, y, x}: the attention of a query (Float32Array). Of a model above 64x64 it
// calls `preview` of a question for an image with smaller images first.

const SUPERSEDED = 0, PIXELS = 2, PREVIEW = 4;
const HEADER = 24; // bytes

class Engine {
  constructor() {
    this.waiting = new Map();
    this.last = 0;
    this.onfail = () => {};
  }

  ask(question) {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, preview: question.preview });
      this.send(id, question);
    });
  }

  settle(id, error, answer) {
    const question = this.waiting.get(id);
    this.waiting.delete(id);
    if (question) error ? question.reject(new Error(error)) : question.resolve(answer);
    else if (error) this.onfail(error);
  }

  fail(sentence) {
    for (const { reject } of this.waiting.values()) reject(new Error(sentence));
    this.waiting.clear();
    this.onfail(sentence);
  }
}

// Python behind a WebSocket; stylenat/explorer/session.py says what goes through it.
export class ServerEngine extends Engine {
  static name_ = "server";
  previews = true;

  open() {
    this.token = new URLSearchParams(location.search).get("token") ?? "";
    const address = new URL(`socket?token=${encodeURIComponent(this.token)}`, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.hash = "";
    return new Promise((resolve, reject) => {
      this.socket = new WebSocket(address);
      this.socket.binaryType = "arraybuffer";
      this.socket.onopen = () => resolve();
      this.socket.onmessage = ({ data }) => this.receive(data);
      this.socket.onclose = () => {
        const sentence = "The explorer has ended, or refuses this page: start it again, and open the "
          + "address that it prints.";
        reject(new Error(sentence));
        this.fail(sentence);
      };
    });
  }

  send(id, { kind, model = 0, seed = 0, label = 0, pane = 0, place = 0, y = 0, x = 0, ws }) {
    if (this.socket.readyState !== WebSocket.OPEN) return this.settle(id, "The explorer has ended.");
    if (kind !== "image") return this.socket.send(JSON.stringify({ id, kind, model, seed, label }));
    const message = new Uint8Array(HEADER + ws.byteLength);
    const view = new DataView(message.buffer);
    [id, model, pane, place].forEach((value, i) => view.setUint32(4 * i, value, true));
    [y, x].forEach((value, i) => view.setFloat32(16 + 4 * i, value, true));
    message.set(new Uint8Array(ws.buffer, ws.byteOffset, ws.byteLength), HEADER);
    this.socket.send(message);
  }

  // What the server says on the way to the style of a picture, line by line; stylenat/explorer/projecting.py
  // says what a line holds.
  async *project(file, options, signal) {
    const query = new URLSearchParams({ token: this.token, ...options });
    const response = await fetch(`project?${query}`, { method: "POST", body: file, signal });
    if (!response.ok) throw new Error(await response.text());
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  }

  receive(data) {
    if (typeof data === "string") {
      const { id, error, answer } = JSON.parse(data);
      return this.settle(id, error, answer);
    }
    const view = new DataView(data);
    const [id, kind] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (kind === PREVIEW) this.waiting.get(id)?.preview?.(new Uint8Array(data, 8));
    else if (kind === SUPERSEDED) this.settle(id, null, null);
    else if (kind === PIXELS) this.settle(id, null, new Uint8Array(data, 8));
    else this.settle(id, null, new Float32Array(data.slice(8)));
  }
}

// ONNX Runtime in a worker of this browser; no server.
export class StaticEngine extends Engine {
  static name_ = "static";

  async open() {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data: { id, error, answer } }) => this.settle(id, error, answer);
    this.worker.onerror = (event) => this.fail(
      `The engine in this browser could not start: ${event.message || "a file of it did not load"}.`);
  }

  send(id, question) {
    this.worker.postMessage({ id, ...question });
  }
}
