"use strict";
// From counters to what a figure shows. grpo_bench/analysis/summary.py and attainment.py compute the same.

// The cost of each of a run's points: a counter, or nfe plus `ratio` evaluations for every reward call.
function costsOf(run, axis, ratio) {
  if (axis !== "latency") return run[axis];
  return run.nfe.map((spent, point) => spent + ratio * run.reward_calls[point]);
}

function interpolate(costs, values, at) {
  if (at >= costs[costs.length - 1]) return values[values.length - 1];
  let right = 1;
  while (costs[right] < at) right += 1;
  const share = (at - costs[right - 1]) / (costs[right] - costs[right - 1]);
  return values[right - 1] + share * (values[right] - values[right - 1]);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// Mean and 95% t interval; no interval below two values.
function estimate(values, quantiles) {
  const middle = mean(values);
  if (values.length < 2) return { mean: middle, low: NaN, high: NaN, n: values.length };
  const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
  const half = quantiles[values.length] * Math.sqrt(variance / values.length);
  return { mean: middle, low: middle - half, high: middle + half, n: values.length };
}

// The runs that an axis may show: over seconds, those that had their device to themselves.
function shown(view, axis) {
  return view.runs.filter((run) => run[axis === "latency" ? "nfe" : axis] && (axis !== "seconds" || run.timed));
}

function scoresOf(run, quantity) {
  return quantity === "gap" ? run.proxy.map((value, point) => value - run.gold[point]) : run[quantity];
}

// Every run resampled to the same costs: 0 and `view.costs` equal steps up to the least that any run spent.
function resample(view, axis, ratio, quantity) {
  const runs = shown(view, axis).map((run) => ({ run, costs: costsOf(run, axis, ratio) }));
  const cut = Math.min(...runs.map(({ costs }) => costs[costs.length - 1]));
  const grid = Array.from({ length: view.costs + 1 }, (_, step) => (cut * step) / view.costs);
  const labels = view.labels.map(() => []);
  for (const { run, costs } of runs) {
    const values = grid.map((at) => interpolate(costs, scoresOf(run, quantity), at));
    labels[run.label].push({ seed: run.seed, values, end: values[values.length - 1] });
  }
  return { cut, grid, labels, runs: runs.length };
}

// For each cost of the grid but 0, what at least `level` of the seeds had reached by then.
function attained(seeds, level) {
  const reached = seeds.map(({ values }) => {
    let best = -Infinity;
    return values.slice(1).map((value) => (best = Math.max(best, value)));
  });
  return reached[0].map((_, step) => reached.map((one) => one[step]).sort((a, b) => b - a)[level - 1]);
}

// 40, 60 and 80% of the seeds, rounded up, each once.
function bandLevels(count) {
  return [...new Set([2, 3, 4].map((fifths) => Math.ceil((count * fifths) / 5)))];
}

// Labels by mean gold at the cut, with the paired difference from the baseline.
function ranking(view, table) {
  const base = new Map((table.labels[view.baseline] || []).map(({ seed, end }) => [seed, end]));
  const rows = [];
  table.labels.forEach((seeds, label) => {
    if (!seeds.length) return;
    const apart = seeds.filter(({ seed }) => base.has(seed)).map(({ seed, end }) => end - base.get(seed));
    rows.push({
      label,
      gold: estimate(seeds.map(({ end }) => end), view.t),
      difference: label !== view.baseline && apart.length ? estimate(apart, view.t) : null,
    });
  });
  return rows.sort((one, other) => other.gold.mean - one.gold.mean);
}

function signed(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
}

function plain(value, digits = 3) {
  return Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

function whole(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 });
}
