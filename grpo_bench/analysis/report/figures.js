"use strict";
// The two figures of a view, as plotly's traces. Text reaches plotly escaped, since it reads a little markup.

const LIGHT = { ink: "#1d1f23", quiet: "#5c6370", rule: "#d9dce1", ground: "#ffffff" };
const DARK = { ink: "#e6e7ea", quiet: "#a0a6b1", rule: "#363a42", ground: "#16181c" };
// Of a sheet of A4 or letter paper, within its margins; a figure knows nothing of the paper's width.
const PAPER = { ...LIGHT, width: 680 };

function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function translucent(colour, alpha) {
  const [red, green, blue] = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  return `rgba(${red},${green},${blue},${alpha})`;
}

function colourOf(label, theme) {
  return theme === DARK ? label.dark : label.colour;
}

function axisTitle(view, state) {
  if (state.axis === "latency") return `network evaluations + ${state.ratioText} × reward calls`;
  return view.axes.find(({ column }) => column === state.axis).title;
}

// What fits under a figure on a phone.
function fitted(title, node) {
  return node.clientWidth < 480 ? title.replace(/ \(.*/, "") : title;
}

function meanLine(grid, seeds, label, theme, chosen) {
  const colour = colourOf(label, theme);
  return {
    type: "scatter",
    mode: "lines+markers",
    name: escaped(label.label),
    meta: "mean",
    x: grid,
    y: grid.map((_, step) => mean(seeds.map(({ values }) => values[step]))),
    line: { color: colour, dash: label.dash, width: chosen ? 3 : 1.75 },
    marker: { color: colour, symbol: label.marker, size: grid.map((_, step) => (step % 5 ? 0 : 7)), opacity: 1, line: { color: colour, width: label.marker.endsWith("-open") ? 1.5 : 0 } },
    hovertemplate: `${escaped(label.label)}: %{y:.3f} at %{x:,.0f}<extra></extra>`,
  };
}

// Staircases between neighbouring levels of attainment, from the level that most seeds attained upwards.
function bands(grid, seeds, label, theme) {
  const colour = colourOf(label, theme);
  return bandLevels(seeds.length)
    .reverse()
    .map((level, place) => ({
      type: "scatter",
      mode: "lines",
      name: `attained by at least ${level} of ${seeds.length} seeds`,
      meta: "attained",
      x: grid.slice(1),
      y: attained(seeds, level),
      line: { color: translucent(colour, 0.55), width: 1, shape: "hv" },
      fill: place ? "tonexty" : "none",
      fillcolor: translucent(colour, 0.2),
      hovertemplate: `${escaped(label.label)}, attained by at least ${level} of ${seeds.length} seeds: %{y:.3f}<extra></extra>`,
    }));
}

function seedLines(grid, seeds, label, theme) {
  return seeds.map(({ seed, values }) => ({
    type: "scatter",
    mode: "lines",
    name: `seed ${seed}`,
    meta: "seed",
    x: grid,
    y: values,
    line: { color: translucent(colourOf(label, theme), 0.5), width: 1 },
    hovertemplate: `${escaped(label.label)}, seed ${seed}: %{y:.3f}<extra></extra>`,
  }));
}

function traces(view, state, table, theme, extra) {
  const drawn = [];
  const chosen = table.labels[state.chosen];
  if (chosen && chosen.length && !state.hidden.has(state.chosen)) {
    drawn.push(...extra(table.grid, chosen, view.labels[state.chosen], theme));
  }
  table.labels.forEach((seeds, index) => {
    if (!seeds.length || state.hidden.has(index)) return;
    drawn.push(meanLine(table.grid, seeds, view.labels[index], theme, index === state.chosen));
  });
  return drawn;
}

function layout(node, view, state, table, theme, title, base) {
  const line = { gridcolor: theme.rule, zeroline: false, linecolor: theme.quiet, tickcolor: theme.quiet, ticks: "outside", ticklen: 4 };
  const level = { type: "line", xref: "paper", x0: 0, x1: 1, y0: base, y1: base, layer: "below" };
  const floor = { type: "rect", xref: "paper", x0: 0, x1: 1, layer: "below", line: { width: 0 } };
  const shapes = [];
  if (base !== null) {
    shapes.push({ ...level, line: { color: theme.quiet, width: 1, dash: "dot" } });
    if (view.floor) shapes.push({ ...floor, y0: base - view.floor, y1: base + view.floor, fillcolor: translucent(theme.quiet, 0.18) });
  }
  return {
    autosize: true,
    width: theme.width,
    font: { family: "system-ui, sans-serif", size: 12, color: theme.ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 12, t: 8, b: 52 },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: theme.ground, bordercolor: theme.quiet, font: { color: theme.ink } },
    dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...line, title: { text: fitted(axisTitle(view, state), node), standoff: 8 }, range: [0, table.cut * 1.01], separatethousands: true },
    yaxis: { ...line, title: { text: fitted(title, node), standoff: 4 }, automargin: true },
    shapes,
  };
}

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };

function drawPareto(node, view, state, theme) {
  const table = resample(view, state.axis, state.ratio, "gold");
  const drawn = traces(view, state, table, theme, bands);
  Plotly.react(node, drawn, layout(node, view, state, table, theme, "gold, held out", view.base), CONFIG);
  return table;
}

function drawCurves(node, view, state, theme) {
  const table = resample(view, state.axis, state.ratio, state.quantity);
  const title = view.quantities.find(({ key }) => key === state.quantity).title;
  const base = state.quantity === "gold" ? view.base : null;
  const drawn = traces(view, state, table, theme, seedLines);
  Plotly.react(node, drawn, layout(node, view, state, table, theme, title, base), CONFIG);
}
