"use strict";
// A button of the legend shows and hides its group in every chart; the style sheet has a rule for each.
const buttons = [...document.querySelectorAll(".legend button")];
for (const button of buttons) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    document.body.classList.toggle(button.dataset.hides, !shown);
  });
}

// A chart reads out its curves: where the mouse is, where a finger taps or slides, or by the arrow keys.
const MOST = 10; // groups in a readout
const make = (name, parent, text) => {
  const element = parent.appendChild(document.createElement(name));
  if (text !== undefined) element.textContent = text;
  return element;
};
const drawn = (name, parent, attributes) => {
  const element = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
const figure = (x) => {
  const size = Math.abs(x);
  if (size >= 1e7) return x.toPrecision(3);
  return size >= 100 ? x.toLocaleString("en", digits) : String(Number(x.toPrecision(3)));
};

for (const svg of document.querySelectorAll("svg[data-plot]")) {
  const plot = JSON.parse(svg.dataset.plot);
  const [left, top, right, bottom] = plot.box;
  const chart = svg.closest("figure");
  let mark = null;
  let box = null;
  let at = null;

  const scaled = (x, [low, high], log) =>
    log ? Math.log(x / low) / Math.log(high / low) : (x - low) / (high - low);
  const lines = () => plot.lines.filter(([index]) => !document.body.classList.contains(`off-s${index}`));
  const stops = () => [...new Set(lines().flatMap(([, x]) => x))].sort((a, b) => a - b);
  const nearest = (xs, x) => xs.reduce((best, each, i) => (Math.abs(each - x) < Math.abs(xs[best] - x) ? i : best), 0);

  const hide = () => {
    mark?.remove();
    box?.remove();
    mark = box = at = null;
  };
  const show = (x) => {
    const all = stops();
    if (!all.length) return hide();
    const stop = all[nearest(all, x)];
    if (stop === at) return;
    hide();
    at = stop;
    const place = left + scaled(at, plot.x) * (right - left);
    mark = drawn("g", svg, { class: "reading" });
    drawn("line", mark, { x1: place, x2: place, y1: top, y2: bottom });
    box = make("output", chart);
    box.className = "readout";
    make("b", box, plot.unit ? `${figure(at)} ${plot.unit}` : `${at.toLocaleString("en")} steps`);
    const read = [];
    for (const [index, xs, values, low, high] of lines()) {
      const i = nearest(xs, at);
      const gap = xs.length > 1 ? (xs[xs.length - 1] - xs[0]) / (xs.length - 1) : 0;
      if (Math.abs(xs[i] - at) > Math.max(gap, 1e-9)) continue; // it ends before, or begins after
      read.push({ index, value: values[i], low: low?.[i], high: high?.[i], x: xs[i] });
    }
    read.sort((a, b) => b.value - a.value);
    for (const { index, value, low, high, x } of read) {
      const cx = left + scaled(x, plot.x) * (right - left);
      const cy = bottom - scaled(value, plot.y, plot.log) * (bottom - top);
      if (Number.isFinite(cy)) drawn("circle", mark, { cx, cy, r: 3, style: `fill: var(--s${index % 10})` });
    }
    for (const { index, value, low, high } of read.slice(0, MOST)) {
      const row = make("span", box);
      row.append(buttons[index].querySelector("svg").cloneNode(true));
      make("span", row, buttons[index].textContent);
      make("strong", row, figure(value));
      if (low !== undefined) make("small", row, `[${figure(low)}, ${figure(high)}]`);
    }
    if (read.length > MOST) make("small", box, `and ${read.length - MOST} below`);
    const [seen, whole] = [svg.getBoundingClientRect(), chart.getBoundingClientRect()];
    const across = seen.left - whole.left + (place / svg.viewBox.baseVal.width) * seen.width;
    const room = whole.width - box.offsetWidth;
    const beside = across + 10 + box.offsetWidth <= whole.width ? across + 10 : across - 10 - box.offsetWidth;
    box.style.left = `${Math.max(0, Math.min(room, beside))}px`;
    box.style.top = `${seen.top - whole.top + 4}px`;
  };
  const under = (event) => {
    const seen = svg.getBoundingClientRect();
    const place = ((event.clientX - seen.left) / seen.width) * svg.viewBox.baseVal.width;
    show(plot.x[0] + ((place - left) / (right - left)) * (plot.x[1] - plot.x[0]));
  };

  chart.tabIndex = 0;
  chart.setAttribute("role", "group");
  svg.addEventListener("pointermove", under);
  svg.addEventListener("pointerdown", under);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  chart.addEventListener("blur", hide);
  document.addEventListener("pointerdown", (event) => chart.contains(event.target) || hide());
  chart.addEventListener("keydown", (event) => {
    const all = stops();
    const here = at === null ? -1 : all.indexOf(at);
    const to = {
      ArrowRight: Math.min(here + 1, all.length - 1),
      ArrowLeft: here < 0 ? all.length - 1 : Math.max(here - 1, 0),
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined || !all.length) return;
    event.preventDefault();
    show(all[to]);
  });
}
