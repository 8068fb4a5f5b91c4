// What one query of a head group looks at, laid over the image. The server alone can say.

const $ = (id) => document.getElementById(id);
const OVERLAY = 2;

export class Attention {
  constructor(engine, panes, state, set, say) {
    Object.assign(this, { engine, panes, state, set, say });
    this.latest = null;
    $("attention-box").hidden = false;
    panes.ondrawn = (model, ws) => {
      this.latest = { model, ws };
      this.render();
    };
    for (const id of ["attention", "place", "query-x", "query-y"]) {
      $(id).addEventListener("input", () => this.change());
    }
    $("image0").addEventListener("click", ({ offsetX, offsetY, target }) => {
      if (!this.state().attention) return;
      const share = (offset, size) => Math.min(Math.max(Number((offset / size).toFixed(2)), 0), 1);
      $("query-x").value = share(offsetX, target.clientWidth);
      $("query-y").value = share(offsetY, target.clientHeight);
      this.change();
    });
  }

  change() {
    const query = [Number($("place").value || 0), Number($("query-y").value), Number($("query-x").value)];
    this.set({ attention: $("attention").checked ? query : null });
  }

  async render() {
    const query = this.state().attention;
    const overlay = $("overlay");
    $("attention").checked = query !== null;
    if (!query || !this.latest) {
      overlay.hidden = true;
      return;
    }
    let [place, y, x] = query;
    const { model, ws } = this.latest;
    try {
      if (this.placesOf !== model) {
        this.placesOf = model;
        const places = await this.engine.ask({ kind: "places", model });
        $("place").replaceChildren(...places.map((textContent, value) =>
          Object.assign(document.createElement("option"), { textContent, value })));
      }
      place = Math.min(place, $("place").options.length - 1); // another model may have fewer
      [$("place").value, $("query-y").value, $("query-x").value] = [place, y, x];
      for (const id of ["query-y", "query-x"]) {
        document.querySelector(`output[for=${id}]`).textContent = $(id).value;
      }
      const seen = await this.engine.ask({ kind: "image", pane: OVERLAY, model, ws, place, y, x });
      if (seen) this.put(overlay, seen, y, x);
    } catch (error) {
      overlay.hidden = true;
      this.say(error.message);
    }
  }

  // Red where it looks, and the query in blue.
  put(overlay, seen, y, x) {
    const side = Math.round(Math.sqrt(seen.length));
    const at = (share) => Math.min(Math.floor(share * side), side - 1);
    overlay.width = overlay.height = side;
    const image = new ImageData(side, side);
    seen.forEach((weight, index) => image.data.set([255, 0, 0, Math.round(200 * weight)], 4 * index));
    image.data.set([0, 90, 255, 255], 4 * (at(y) * side + at(x)));
    overlay.getContext("2d").putImageData(image, 0, 0);
    overlay.hidden = false;
    overlay.dataset.drawn = Number(overlay.dataset.drawn ?? 0) + 1;
  }
}
