"""Does the proxy come apart from the gold? Curves over seeds of flat trained on `shapes-pref`, from stored runs.

    python benchmarks/proxy_gold.py [results/archive/proxy-gold] [--picture docs/images/proxy-gold.png]
    python benchmarks/proxy_gold.py --agreement     # of proxy and gold on images of the untrained model, instead

Prints one JSON line: a row an evaluation with the means over seeds of proxy, gold and gold's two parts; and the gains
with 95% t intervals (RULES.md, "Statistics") from the base to the end, from the base to where the workload's default
budget would have ended the run, and from there to the end. docs/proxy-gold.md has the command of the runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from grpo_bench.config import RewardSection
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards, score_parts
from grpo_bench.store.reader import read_runs
from grpo_bench.workloads.pretraining.folder import load
from grpo_bench.workloads.shapes.scenes import prompts as heldout
from grpo_bench.workloads.shapes.workload import MODEL, ShapesWorkload

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results" / "archive" / "proxy-gold"
DEFAULT_BUDGET = ShapesWorkload.defaults["budget"]["nfe"]
COLUMNS = {
    "proxy": "proxy",
    "gold": "gold",
    "correctness": "reward/shapes-correctness",
    "appeal": "reward/shapes-appeal",
    "diversity": "diversity",
}
COLOURS = {"proxy": "#D55E00", "gold": "#0072B2"}


def interval(gains: np.ndarray) -> dict[str, float]:
    """Mean and 95% t interval over seeds."""
    half = float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains)))
    mean = float(gains.mean())
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def points(results: Path) -> pd.DataFrame:
    """The points of the runs in a folder, which must be finished and of at least two seeds.

    Raises:
        UserError: they are not.
    """
    runs = read_runs(results)
    faults = [
        *runs.skipped,
        *(f"{record.run} is {record.status}" for record in runs.records if record.status != "done"),
    ]
    if faults or len(runs.records) < 2:
        raise UserError(f"the gap needs finished runs of two seeds in {results}: {faults[0] if faults else 'too few'}")
    return runs.points.sort_values(["seed", "iteration"])


def summarise(results: Path) -> dict[str, object]:
    """The curve and the gains of the runs in a folder."""
    frame = points(results)
    by_step = frame.groupby("iteration")
    curve = [
        {"iteration": int(step), "nfe": round(float(rows["nfe"].mean()))}
        | {name: round(float(rows[column].mean()), 4) for name, column in COLUMNS.items()}
        for step, rows in by_step
        if len(rows) == frame["seed"].nunique()
    ]
    default = max(row["iteration"] for row in curve if row["nfe"] <= DEFAULT_BUDGET)
    table = {name: frame.pivot(index="seed", columns="iteration", values=column) for name, column in COLUMNS.items()}
    last = curve[-1]["iteration"]
    gains = {
        name: {
            "end": interval((values[last] - values[0]).to_numpy()),
            "default": interval((values[default] - values[0]).to_numpy()),
            "after": interval((values[last] - values[default]).to_numpy()),
        }
        for name, values in table.items()
    }
    return {
        "seeds": int(frame["seed"].nunique()),
        "default_iteration": default,
        "last_iteration": last,
        "gains": gains,
        "curve": curve,
    }


def agreement(prompts: int = 47, draws: int = 8) -> dict[str, float]:
    """Spearman's correlation of proxy and gold on the shipped model's own images of held-out prompts.

    `overall` is over all images, `within` the mean over prompts of that among one prompt's images, which is what a
    group's advantages see; the same with gold's two parts.
    """
    captions = list(heldout("heldout"))[:: len(heldout("heldout")) // prompts][:prompts]
    pipe = load(MODEL)
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 10, "height": 32, "width": 32, "max_sequence_length": 0, "guidance_scale": 1.0}
    drawn = [
        pipe(captions, output_type="np", generator=torch.Generator().manual_seed(draw), **call).images
        for draw in range(draws)
    ]
    images_DPCHW = torch.from_numpy(np.stack(drawn).transpose(0, 1, 4, 2, 3))
    made = make_rewards(["shapes-pref", "shapes"], RewardSection())
    scores: dict[str, list[np.ndarray]] = {}
    for images_PCHW in images_DPCHW:
        for reward in made.values():
            for name, score_P in score_parts(reward, images_PCHW, captions).items():
                scores.setdefault(name, []).append(score_P)
    proxy_PD = np.stack(scores.pop("shapes-pref"), 1)
    figures: dict[str, float] = {"images": proxy_PD.size}
    for name, found in scores.items():
        gold_PD = np.stack(found, 1)
        within = [stats.spearmanr(p, g).statistic for p, g in zip(proxy_PD, gold_PD, strict=True) if np.ptp(g) > 0]
        figures[f"{name}_overall"] = round(float(stats.spearmanr(proxy_PD.ravel(), gold_PD.ravel()).statistic), 3)
        figures[f"{name}_within"] = round(float(np.mean(within)), 3)
    return figures


def draw(results: Path, picture: Path) -> None:
    """Proxy and gold against nfe: thin lines for seeds, thick ones for their means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = points(results)
    figure = Figure(figsize=(5.4, 3.4), dpi=200, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, colour in COLOURS.items():
        for _, rows in frame.groupby("seed"):
            axes.plot(rows["nfe"], rows[name], color=colour, linewidth=0.6, alpha=0.5)
        mean = frame.groupby("iteration")[["nfe", name]].mean()
        axes.plot(mean["nfe"], mean[name], color=colour, linewidth=2, label=name, marker="o", markersize=3)
    axes.set_xlabel("network evaluations (nfe)")
    axes.set_ylabel("score on held-out prompts")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("flat trained on shapes-pref: proxy and gold", loc="left", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(picture, format="png", metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=REFERENCE)
    parser.add_argument("--picture", type=Path, help="also draw the curves here")
    parser.add_argument("--agreement", action="store_true", help="on the untrained model's images, instead")
    arguments = parser.parse_args()
    print(json.dumps(agreement() if arguments.agreement else summarise(arguments.results)))
    if arguments.picture:
        draw(arguments.results, arguments.picture)
