"""The answer in five sentences: who buys most, how sure, how sensitive to the rate, what goes with it, what is unknown.

Every word of them comes from a verdict or a figure of the view; a part that was not measured is said to be missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grpo_bench.analysis.axes import AXES
from grpo_bench.analysis.contrasts import Contrast
from grpo_bench.analysis.diagnosis import RankCorrelation
from grpo_bench.analysis.report.verdict import NO_VERDICT
from grpo_bench.analysis.report.words import amount, change, listed, many, score, span
from grpo_bench.analysis.summary import AxisSummary, Chosen, Stretch, ViewSummary

EQUAL: dict[str, str] = {
    "nfe": "network evaluations (nfe)",
    "rollout-nfe": "rollout evaluations",
    "reward-calls": "reward calls",
    "updates": "updates",
    "seconds": "seconds",
}
GROUPS: dict[str, str] = {
    "better": "better than {0}: {1}",
    "better, correctness not shown": "better than {0}, though not shown to be more often correct: {1}",
    "better in appeal only": "better than {0} in appeal only: {1}",
    "worse": "worse than {0}: {1}",
    "no difference that matters": "no difference from {0} that matters: {1}",
    "not shown to differ": "not shown to differ from {0}: {1}",
    **{word: f"no verdict against {{0}}, since {reason}: {{1}}" for word, reason in NO_VERDICT.items()},
    "too few seeds": "too few seeds to compare with {0}: {1}",
}
UNKNOWN = {
    "analytic": "whether any of this holds for a model that is not a closed form",
    "tiny": "whether any of this holds for SD3.5, FLUX or any other model that people use",
    "geometry": "whether any reward rises: the weights are random, and only costs mean anything",
    "real": "whether this holds for another model",
}


@dataclass(frozen=True)
class Sentence:
    """One part of the answer."""

    topic: str
    text: str


def answer(
    summary: ViewSummary, seconds: AxisSummary | None = None, ranks: RankCorrelation | None = None
) -> tuple[Sentence, ...]:
    """The five sentences; none where fewer than two labels have finished runs.

    Args:
        summary: the view's figures.
        seconds: the same comparison over seconds, of runs that had their machine to themselves.
        ranks: of gradient quality with gain, where a diagnosis goes with the view.
    """
    if len(summary.methods) < 2:
        return ()
    return (
        Sentence("Who buys most", _most(summary, seconds)),
        Sentence("How sure", _sure(summary)),
        Sentence("How sensitive to the learning rate", _sensitive(summary)),
        Sentence("What goes with it", _with(ranks)),
        Sentence("What is not known", _unknown(summary)),
    )


def _most(summary: ViewSummary, seconds: AxisSummary | None) -> str:
    found = {one.axis: one for one in summary.axes} | ({"seconds": seconds} if seconds is not None else {})
    told = [f"at equal {EQUAL[axis]}: {_leader(found[axis].frontier[-1])}" for axis in AXES if axis in found]
    untimed = "" if "seconds" in found else "; over seconds nothing is known, since no run had its machine to itself"
    picked = "leads are exploratory: whoever leads was picked for it"
    return f"Highest mean gold {'; '.join(told)}{untimed} ({picked})."


def _leader(last: Stretch) -> str:
    """`mix, by +0.022 (+0.002 to +0.041) over tree`."""
    if not last.runner_up:
        return last.label
    between = span(last.margin.low, last.margin.high, signed=True)
    apart = "" if last.margin.low > 0 else ", not told apart"
    interval = f" ({between}{apart})" if between else " (one seed)"
    return f"{last.label}, by {change(last.margin.mean)}{interval} over {last.runner_up}"


def _sure(summary: ViewSummary) -> str:
    primary = [one for one in summary.contrasts if one.primary]
    if not primary:
        return "No contrast was named before the runs, so that nothing is decided."
    if all(one.verdict == "exploratory" for one in primary):
        return "All labels share one learning rate, which decides nothing."
    groups = [
        words.format(primary[0].baseline, listed([_difference(one) for one in primary if one.verdict == verdict]))
        for verdict, words in GROUPS.items()
        if any(one.verdict == verdict for one in primary)
    ]
    seeds = sorted({one.seeds for one in primary})
    prompts = sorted({one.prompts for one in summary.two_way})
    over = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    wide = f" and {prompts[0]} prompts, 95% intervals for others of both" if prompts else ", 95% intervals"
    equal = EQUAL.get(summary.budget, summary.budget or "budgets")
    own = " and each label's own rate" if summary.choices else ""
    family = f"Holm over {many(len(primary), 'contrast')}"
    return f"In gold at equal {equal}{own}, {'; '.join(groups)} ({over}{wide}; {family})."


def _difference(one: Contrast) -> str:
    found = one.difference
    if not math.isfinite(found.mean):
        return f"{one.label} (no seed in common)"
    between = span(found.low, found.high, signed=True)
    return f"{one.label} {change(found.mean)}{f' ({between})' if between else ''}"


def _sensitive(summary: ViewSummary) -> str:
    known = [one for one in summary.choices if math.isfinite(one.spread)]
    if not known:
        return "No label was run at rates of its own, so that this is not known."
    steady, nervous = min(known, key=_spread), max(known, key=_spread)
    told = [
        f"Over the rates that trials tried, the gain of {nervous.choice.label} varies by {score(nervous.spread)} "
        f"and that of {steady.choice.label} by {score(steady.spread)}"
    ]
    shared, best = _leading(known, shared=True), _leading(known, shared=False)
    if shared and best:
        told.append(
            f"{best} leads the trials at the best rate of each, and "
            + (f"{shared} would at one rate for all" if shared != best else "so it would at one rate for all")
        )
    other = [one.choice.label for one in known if _apart(one.choice.factor, one.choice.proxy_factor)]
    if other:
        told.append(f"the proxy alone would have chosen another rate for {listed(other)}")
    return f"{'; '.join(told)}."


def _apart(one: float | None, other: float | None) -> bool:
    """Whether two factors are more than half a step of the grid of rates apart."""
    return one is not None and other is not None and abs(math.log(one / other, 3)) > 0.5


def _spread(one: Chosen) -> float:
    return one.spread


def _leading(known: Sequence[Chosen], *, shared: bool) -> str:
    """The label whose trials gained most, at the shared rate or at the best of its own; empty where none was tried."""
    gains = {one.choice.label: one.choice.gains.get("1") if shared else one.choice.best_gain for one in known}
    found = {label: gain for label, gain in gains.items() if gain is not None}
    return max(found, key=lambda label: found[label], default="")


def _with(ranks: RankCorrelation | None) -> str:
    if ranks is None:
        return "No gradient was measured beside these runs (grpo-bench diagnose), so that this is not known."
    if not math.isfinite(ranks.value):
        return f"Gradient quality was measured for {many(ranks.labels, 'label')}, too few for a rank correlation."
    return (
        f"The quality of a method's gradient for equal network evaluations and its gain have a rank correlation of "
        f"{ranks.value:.2f} ({ranks.low:.2f} to {ranks.high:.2f}) over {ranks.labels} labels, which is no cause."
    )


def _unknown(summary: ViewSummary) -> str:
    told = "; ".join(_gaps(summary))
    return f"{told[0].upper()}{told[1:]}."


def _gaps(summary: ViewSummary) -> Iterator[str]:
    yield UNKNOWN[summary.tier]
    spent = max((one.cut for one in summary.axes if one.axis == "nfe"), default=math.nan)
    yield f"what comes after {amount(spent)} nfe" if math.isfinite(spent) else "what comes after these runs"
    if summary.choices:
        tuned = listed(sorted({one.choice.setting.rpartition(".")[2].replace("_", " ") for one in summary.choices}))
        yield f"what settings other than the {tuned} would change"
    open_rates = [one.choice.label for one in summary.choices if not one.choice.bracketed]
    if open_rates:
        yield f"the best rate of {listed(open_rates)}"
    if summary.ended:
        yield f"what {many(len(summary.ended), 'run')} that did not finish would have shown"
