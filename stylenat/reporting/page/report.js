"use strict";
document.documentElement.classList.add("js");

// One grid at a time. Without this script they lie beside each other.
for (const strip of document.querySelectorAll(".slides")) {
  const grids = [...strip.querySelectorAll(".grid")];
  const slider = strip.closest(".samples").querySelector("input");
  const label = strip.closest(".samples").querySelector("output");
  const show = () => {
    grids.forEach((grid, index) => grid.classList.toggle("now", index === Number(slider.value)));
    const text = grids[slider.value].dataset.kimg;
    label.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", show);
  show();
}

// The values of a chart's curves where the pointer is, or the arrow keys.
const charts = JSON.parse(document.getElementById("charts").textContent);
for (const [name, chart] of Object.entries(charts)) follow(document.getElementById(name), chart);

function follow(figure, chart) {
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const marks = [...svg.querySelectorAll(".mark")];
  const places = [...svg.querySelectorAll("polyline")].map((line) => [...line.points]);
  const values = [...figure.querySelectorAll(".value")];
  const where = figure.querySelector(".where");
  const before = [where, ...values].map((element) => element.textContent);
  let key = null;

  function show(x) {
    const found = places.map((points) => nearest(points, x));
    const first = places.reduce((best, points, curve) =>
      Math.abs(points[found[curve]].x - x) < Math.abs(places[best][found[best]].x - x)
        ? curve : best, 0);
    const {names, x: xs} = chart.curves[first];
    const at = places[first][found[first]].x;
    where.textContent = (names ? `${names[found[first]]}, ` : "") +
      (names ? `${chart.x} ${xs[found[first]]}` : `at ${xs[found[first]]} ${chart.x}`);
    places.forEach((points, curve) => {
      const {x: px, y: py} = points[found[curve]];
      values[curve].textContent = chart.curves[curve].y[found[curve]];
      marks[curve].setAttribute("cx", px);
      marks[curve].setAttribute("cy", py);
      marks[curve].removeAttribute("hidden");
    });
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.removeAttribute("hidden");
  }

  function rest() {
    key = null;
    [where, ...values].forEach((element, index) => { element.textContent = before[index]; });
    [cursor, ...marks].forEach((element) => element.setAttribute("hidden", ""));
  }

  svg.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY);
    show(point.matrixTransform(svg.getScreenCTM().inverse()).x);
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step === undefined) return;
    const last = places[0].length - 1;
    key = key === null ? last : Math.min(last, Math.max(0, key + step));
    show(places[0][key].x);
    event.preventDefault();
  });
}

function nearest(points, x) {
  let best = 0;
  points.forEach((point, index) => {
    if (Math.abs(point.x - x) < Math.abs(points[best].x - x)) best = index;
  });
  return best;
}
