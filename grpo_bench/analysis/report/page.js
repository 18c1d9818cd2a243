"use strict";
// Controls: sortable tables, cost axis, slider, legend, light and dark. Data becomes text nodes, never markup.

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== "") made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Numbers by size, texts by alphabet; what has no value stays last either way.
function compare(one, other, sign) {
  const [first, second] = [one, other].map(({ dataset }) => (dataset.order === undefined ? null : Number(dataset.order)));
  if (first !== null && second !== null) return sign * (first - second);
  const [left, right] = [one, other].map(({ dataset }) => dataset.text);
  const missing = (left === "–") - (right === "–") || (first === null) - (second === null);
  return missing || sign * left.localeCompare(right, "en", { numeric: true });
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const numeric = heads[column].classList.contains("number");
  const before = heads[column].getAttribute("aria-sort");
  const ascending = before === "none" ? !numeric : before === "descending";
  heads.forEach((head, place) => {
    if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", place !== column ? "none" : ascending ? "ascending" : "descending");
  });
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => compare(one.cells[column], other.cells[column], ascending ? 1 : -1));
  table.tBodies[0].append(...rows);
}

document.querySelectorAll("table.data thead button").forEach((button) => {
  const head = button.closest("th");
  button.addEventListener("click", () => sortBy(head.closest("table"), head.cellIndex));
});

// Every label with a figure is in the table of methods, with its sample.
function sample(label) {
  return document.querySelector(`.sample.${label.ink}`).cloneNode(true);
}

class Figures {
  constructor(root, view) {
    this.view = view;
    this.parts = Object.fromEntries(
      ["axes", "slider", "ratio", "pareto", "curves", "legend", "chosen", "quantity", "ranking", "pareto-note", "curves-note"]
        .map((name) => [name, root.querySelector(`.${name}`)]),
    );
    this.name = root.dataset.view;
    this.state = { axis: view.axes[0].column, ratio: 1, ratioText: "1", quantity: "gold", hidden: new Set(), chosen: -1 };
    this.state.chosen = ranking(view, resample(view, this.state.axis, 1, "gold"))[0].label;
    root.querySelector(".live").hidden = false; // without a script there is nothing to control
    this.addAxes();
    this.addChoices();
    this.addLegend();
    this.draw();
  }

  addAxes() {
    const axes = [...this.view.axes.map(({ column, title }) => [column, title]), ["latency", "evaluations + r × reward calls (r: the slider)"]];
    for (const [key, title] of axes) {
      const radio = element("input", "", { type: "radio", name: `${this.name}-axis`, value: key });
      radio.checked = key === this.state.axis;
      radio.addEventListener("change", () => this.set({ axis: key }));
      const label = element("label", "");
      label.append(radio, title);
      this.parts.axes.append(label);
    }
    this.parts.slider.addEventListener("input", () => {
      const ratio = 10 ** Number(this.parts.slider.value);
      const ratioText = ratio < 10 ? String(Number(ratio.toPrecision(2))) : whole(Math.round(ratio));
      this.parts.ratio.textContent = ratioText;
      this.parts.slider.setAttribute("aria-valuetext", `${ratioText} times as long as a denoiser evaluation`);
      this.parts.axes.querySelector("input[value=latency]").checked = true;
      this.set({ axis: "latency", ratio, ratioText });
    });
  }

  addChoices() {
    this.view.labels.forEach(({ label }, index) => this.parts.chosen.append(element("option", label, { value: index })));
    this.parts.chosen.append(element("option", "none", { value: -1 }));
    this.parts.chosen.value = this.state.chosen;
    this.parts.chosen.addEventListener("change", () => this.set({ chosen: Number(this.parts.chosen.value) }));
    this.view.quantities.forEach(({ key, title }) => this.parts.quantity.append(element("option", title, { value: key })));
    this.parts.quantity.addEventListener("change", () => this.set({ quantity: this.parts.quantity.value }));
  }

  addLegend() {
    this.view.labels.forEach((label, index) => {
      const button = element("button", "", { type: "button", "aria-pressed": "true" });
      button.append(sample(label), label.label);
      button.addEventListener("click", () => {
        const { hidden } = this.state;
        hidden.has(index) ? hidden.delete(index) : hidden.add(index);
        button.setAttribute("aria-pressed", String(!hidden.has(index)));
        this.draw();
      });
      this.parts.legend.append(button);
    });
  }

  set(change) {
    Object.assign(this.state, change);
    this.draw();
  }

  draw() {
    const { view, state, parts } = this;
    const theme = themeNow();
    const table = drawPareto(parts.pareto, view, state, theme);
    drawCurves(parts.curves, view, state, theme);
    const name = state.chosen < 0 ? "" : view.labels[state.chosen].label;
    const count = state.chosen < 0 ? 0 : table.labels[state.chosen].length;
    const levels = bandLevels(count).join(", ").replace(/, (\d+)$/, " and $1");
    const cut = `Cut at ${whole(table.cut)}, the least that any of its ${table.runs} runs spent.`;
    const floor = view.floor ? " in its noise floor" : "";
    parts["pareto-note"].textContent =
      `Lines: means over seeds at the same ${view.costs} costs. ` +
      (count ? `Shaded: attained by at least ${levels} of ${count} seeds of ${name} (attainment surfaces, no confidence bands). ` : "") +
      `Dotted: the untrained base${floor}. ${cut}`;
    parts["curves-note"].textContent = "Thick: means over seeds" + (count ? `; thin: each seed of ${name}.` : ".");
    this.rank(table);
  }

  rank(table) {
    const { view, state } = this;
    const baseline = view.baseline < 0 ? "" : view.labels[view.baseline].label;
    const cost = state.axis === "latency" ? `${whole(table.cut)} evaluations, a reward call counting ${state.ratioText}` : `${whole(table.cut)} ${axisTitle(view, state)}`;
    this.parts.ranking.caption.firstElementChild.textContent = `Ranking by mean gold at equal cost: ${cost} (exploratory)`;
    this.parts.ranking.querySelector(".versus").textContent = baseline ? `less ${baseline}` : "difference";
    const rows = ranking(view, table).map(({ label, gold, difference }, place) => {
      const row = element("tr", "");
      const head = element("th", "", { scope: "row" });
      head.append(sample(view.labels[label]), view.labels[label].label);
      const span = ({ low, high }, one) => (Number.isFinite(low) ? `${one(low)} to ${one(high)}` : "–");
      const texts = [String(place + 1), plain(gold.mean), span(gold, plain)];
      texts.push(difference ? signed(difference.mean) : label === view.baseline ? "baseline" : "–", difference ? span(difference, signed) : "–");
      row.append(head, ...texts.map((text) => element("td", text, { class: "number" })));
      return row;
    });
    this.parts.ranking.tBodies[0].replaceChildren(...rows);
  }
}

// Paper is white whatever the reader's scheme, and stays white if that scheme changes while the page is printed.
const night = window.matchMedia("(prefers-color-scheme: dark)");
let printing = false;
function themeNow() {
  if (printing) return PAPER;
  return night.matches ? DARK : LIGHT;
}

const VIEWS = JSON.parse(document.getElementById("report-data").textContent);
const drawnFigures = [...document.querySelectorAll(".figures")].map((root) => new Figures(root, VIEWS[root.dataset.view]));
function redraw() {
  drawnFigures.forEach((figures) => figures.draw());
}
function setPrinting(now) {
  printing = now;
  redraw();
}
night.addEventListener("change", redraw);
window.addEventListener("beforeprint", () => setPrinting(true));
window.addEventListener("afterprint", () => setPrinting(false));
