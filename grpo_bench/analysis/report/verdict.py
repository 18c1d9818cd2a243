"""What a view's figures allow one to say, in sentences; "better" comes from a contrast's verdict only."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_bench.analysis.axes import Axis
from grpo_bench.analysis.contrasts import Contrast
from grpo_bench.analysis.coverage import measured_coverage
from grpo_bench.analysis.coverage_table import two_way_sentence
from grpo_bench.analysis.means import Mean
from grpo_bench.analysis.report.words import amount, change, clean, listed, p_value, score, span
from grpo_bench.analysis.summary import AxisSummary, Stretch, ViewSummary
from grpo_bench.analysis.words import FEWEST_SEEDS

UNITS: dict[Axis, str] = {
    "nfe": "nfe",
    "rollout-nfe": "rollout nfe",
    "reward-calls": "reward calls",
    "updates": "updates",
    "seconds": "seconds",
}

TIERS = {
    "analytic": "Tier analytic: a problem in closed form, which says nothing about a real model.",
    "tiny": "Tier tiny: the built-in models, which say nothing about SD3.5 or any other real model.",
    "geometry": "Tier geometry: a real model's size with random weights; only costs mean anything here.",
    "real": "Tier real: a real model.",
}


def headline(summary: ViewSummary) -> str:
    """Who is on the frontier over the first axis, and by how much."""
    if not summary.axes:
        return "No run has finished, so there is nothing to compare yet."
    first = summary.axes[0]
    if len(summary.methods) == 1:
        return f"Only {summary.methods[0].label} has finished runs, so there is nothing to compare it with yet."
    return f"{_route(first)} {_lead(first)}"


def _route(axis: AxisSummary) -> str:
    unit = UNITS[axis.axis]
    stretches = axis.frontier
    if len(stretches) == 1:
        return f"{stretches[0].label} has the highest mean gold at every cost up to {amount(axis.cut)} {unit}."
    told = [f"{one.label} up to {amount(one.last)}" for one in stretches]
    return f"Highest mean gold: {', then '.join(told)} {unit}."


def _lead(axis: AxisSummary) -> str:
    last = axis.frontier[-1]
    if not last.runner_up:
        return ""
    between = span(last.margin.low, last.margin.high, signed=True)
    interval = f"95% interval {between}" if between else "one seed, so no interval"
    told = "" if last.margin.low > 0 else " So the two are not told apart."
    return (
        f"There it leads {last.runner_up} by {score(last.margin.mean)} ({interval}; highest in "
        f"{seeds_ahead(last)}).{told} This lead is exploratory: the leader was picked for being highest."
    )


def seeds_ahead(stretch: Stretch) -> str:
    """`4 of 5 seeds`."""
    return f"{stretch.ahead} of {stretch.seeds} seeds" if stretch.seeds != 1 else f"{stretch.ahead} of 1 seed"


WORDS: dict[str, tuple[str, str]] = {
    "better": ("is better than", ""),
    "better, correctness not shown": ("is better than", "and is not shown to be more often correct"),
    "better in appeal only": ("is better than", "in appeal only"),
    "worse": ("is worse than", ""),
    "no difference that matters": ("shows no difference that matters from", ""),
    "not shown to differ": ("is not shown to differ from", ""),
}
"""What stands before the baseline's name and after it, by verdict."""


NO_VERDICT: dict[str, str] = {
    "rate not bracketed": "a rate was not bracketed",
    "rate not as chosen": "a rate is not what its trials choose",
    "too few common prompts": "its runs were not scored on the same prompts, two at least",
}
"""Why a contrast of enough seeds has none."""


def contrast_sentence(contrast: Contrast) -> str:
    """One primary contrast and its verdict."""
    label, baseline, found = contrast.label, contrast.baseline, contrast.difference
    difference = f"{change(found.mean)} gold at the full budget"
    if contrast.verdict == "too few seeds":
        return (
            f"{label} against {baseline}: {difference} over {contrast.seeds} common seeds, too few for a verdict "
            f"({FEWEST_SEEDS} are needed)."
        )
    interval = span(found.low, found.high, signed=True)
    sure = f"95% interval {interval}" if interval else "no interval"
    if contrast.verdict in NO_VERDICT:
        return (
            f"{label} against {baseline}: {difference} ({sure}), and no verdict, since {NO_VERDICT[contrast.verdict]}."
        )
    if contrast.verdict == "exploratory":
        return (
            f"{label} against {baseline}: {difference} ({sure}). One learning rate for all is a sensitivity view: no "
            "verdict rests on it."
        )
    decides = f"Holm's p {_equals(contrast.holm_p)}"
    if contrast.verdict == "no difference that matters":
        decides = f"margin {score(contrast.margin)}, Holm's p of equivalence {_equals(contrast.equivalence_p)}"
    verb, rest = WORDS[contrast.verdict]
    more = f", {rest}" if rest else ""
    return f"{label} {verb} {baseline}{more}: {difference} ({sure}; {decides}; {contrast.seeds} seeds)."


def mean_sentence(mean: Mean) -> str:
    """One contrast over a suite's workloads, or why there is no mean."""
    where = f"{mean.label} against {mean.baseline} over {listed(list(mean.workloads))}"
    if mean.aggregate is None:
        return f"{where}: {mean.reason}."
    found = mean.aggregate
    interval = span(found.low, found.high, signed=True) or "none"
    way = f"{change(found.mean)} of the way from base to ceiling"
    return f"{where}: {way} (95% interval {interval}, these workloads only)."


def decided(summary: ViewSummary) -> tuple[str, ...]:
    """The primary contrasts, or why there is none."""
    primary = [contrast for contrast in summary.contrasts if contrast.primary]
    if primary:
        return tuple(contrast_sentence(contrast) for contrast in primary)
    if not summary.baseline:
        return ("There is no baseline here to take differences from, so no method is judged.",)
    return (
        f"No contrast was named before the runs: every difference from {summary.baseline} is exploratory, and none is "
        "a verdict.",
    )


def caveats(summary: ViewSummary) -> tuple[str, ...]:
    """How sure all this is: base and noise floor, what the intervals cover, who learned nothing, and the tier."""
    if not summary.methods:
        return (TIERS[summary.tier],)
    return tuple(
        sentence
        for sentence in (
            TIERS[summary.tier],
            _judge(summary),
            _floor(summary),
            below_floor(summary),
            *_learned(summary),
            *_covered(summary),
        )
        if sentence
    )


def _judge(summary: ViewSummary) -> str:
    if summary.gold_is_proxy:
        return "These runs trained on gold itself, so that no gap between proxy and gold can open."
    return f"Trained on {clean(summary.reward)}; gold is the workload's own judge, which no run trained on."


def _floor(summary: ViewSummary) -> str:
    if summary.two_way:
        bases = [method.base for method in summary.methods]
        return f"The untrained base scores {score(sum(bases) / len(bases))} under all evaluation noises."
    base = f"The untrained base scores {score(summary.references.base)}"
    if summary.floor is None:
        return f"{base}; it was evaluated with one noise only, so that there is no noise floor to hold a gain against."
    return (
        f"{base}; {summary.floor.evaluations} evaluations of it with other noise lie within "
        f"{score(summary.floor.gold)} of each other, and no smaller change is called a gain."
    )


def below_floor(summary: ViewSummary) -> str:
    """Which decided differences are so small that another noise of the evaluation might have made as much."""
    floor = summary.floor.gold if summary.floor else 0.0
    decided = [one for one in summary.contrasts if one.verdict in ("better", "worse")]
    small = [one.label for one in decided if abs(one.difference.mean) <= floor]
    if not small:
        return ""
    verb = "differs" if len(small) == 1 else "differ"
    return (
        f"{listed(small)} {verb} from {summary.baseline} by no more than the noise floor: so much is sure for this "
        "evaluation's noise only."
    )


def _learned(summary: ViewSummary) -> list[str]:
    told = []
    for kind, words in (
        ("within the noise floor", "Within the noise floor, and so no gain: {}."),
        ("loss", "Ended below the base: {}."),
        ("not shown", "No gain over the base is shown for {}."),
    ):
        labels = [method.label for method in summary.methods if method.learned == kind]
        if labels:
            told.append(words.format(listed(labels)))
    few = [method.label for method in summary.methods if method.learned == "too few seeds"]
    if few:
        told.append(f"Fewer than {FEWEST_SEEDS} seeds, so that no verdict is given: {listed(few)}.")
    return told


def _covered(summary: ViewSummary) -> list[str]:
    told = []
    counts = {method.gold.n for method in summary.methods}
    coverage = measured_coverage(min(counts))
    if coverage:
        told.append(f"Intervals of means over {_range(counts)} seeds: {coverage.sentence}.")
    if summary.two_way:
        told.append(f"Intervals of differences hold for other seeds and other prompts: {differences_cover(summary)}.")
        return told
    compared = {contrast.seeds for contrast in summary.contrasts}
    paired = measured_coverage(min(compared), "paired") if compared else None
    if paired:
        told.append(f"Intervals of differences over {_range(compared)} paired seeds: {paired.sentence}.")
    return told


def differences_cover(summary: ViewSummary) -> str:
    """What the two-way intervals of a view were measured to cover, at the fewest seeds and prompts among them."""
    seeds, prompts = (min(getattr(one, size) for one in summary.two_way) for size in ("seeds", "prompts"))
    return two_way_sentence(seeds, prompts)


def _range(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def cut_sentence(axis: AxisSummary) -> str:
    """Where a view over an axis ends, and what was left out of it."""
    left = f"; {axis.untimed} runs that shared their machine are left out" if axis.untimed else ""
    return f"Cut at {amount(axis.cut)} {UNITS[axis.axis]}, the least that any of its {axis.runs} runs spent{left}."


def absent_axes(summary: ViewSummary, axes: Sequence[Axis]) -> str:
    """Why an axis is not offered."""
    offered = {one.axis for one in summary.axes}
    gone = [axis for axis in axes if axis not in offered] if summary.methods else []
    told = []
    if "seconds" in gone:
        told.append("No view over seconds: all runs shared their machine, and such seconds compare nothing.")
    counted = [UNITS[axis] for axis in gone if axis != "seconds"]
    if counted:
        told.append(f"No view over {listed(counted)}: a run spent none between two of its points.")
    return " ".join(told)
