"""results/README.md from the reference results: every figure in it is computed from stored rows. One JSON line.

    python benchmarks/findings.py [--write]

The text is results/README.md.jinja; `--write` renders it. tests/test_reference_findings.py fails when the two differ.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from grpo_bench.analysis.breakeven import break_even
from grpo_bench.analysis.diagnosis import LabelFigures, label_figures
from grpo_bench.analysis.gradients import BUDGET, Measured
from grpo_bench.analysis.means import means
from grpo_bench.analysis.replication import replications
from grpo_bench.analysis.report.page import answers, timed
from grpo_bench.analysis.report.verdict import mean_sentence
from grpo_bench.analysis.report.words import listed
from grpo_bench.analysis.statistics import Estimate, t_interval
from grpo_bench.analysis.study import Study, View, studies
from grpo_bench.analysis.summary import ViewSummary, summaries
from grpo_bench.store.diagnosis import PolicyRecord, read_diagnosis

ROOT = Path(__file__).parent.parent
REFERENCE, DIAGNOSES = ROOT / "results" / "reference", ROOT / "results" / "diagnosis"
TEMPLATE, PAGE = ROOT / "results" / "README.md.jinja", ROOT / "results" / "README.md"
MAIN, AGAIN, OTHERS, TIMED = "shapes-tuned", "shapes-replication", "shapes-exploratory", "shapes-tuned-timed"
WORKLOADS = "workloads-tuned"


@dataclass(frozen=True)
class Quality:
    """The labels' gradients at one policy, the best first, and what their runs gained."""

    policy: PolicyRecord
    nfe: int
    rows: tuple[LabelFigures, ...]
    gains: Mapping[str, Estimate]


def signed(estimate: Estimate) -> str:
    """`+0.208 (+0.170 to +0.246)`; nothing where there is no mean."""
    if math.isnan(estimate.mean):
        return ""
    return f"{estimate.mean:+.3f}" + (f" ({ends(estimate)})" if math.isfinite(estimate.low) else "")


def ends(estimate: Estimate) -> str:
    """`+0.170 to +0.246`; nothing where there is no interval."""
    return f"{estimate.low:+.3f} to {estimate.high:+.3f}" if math.isfinite(estimate.low) else ""


def p_value(p: float) -> str:
    """A p value in two digits; nothing where there is none."""
    return "" if math.isnan(p) else f"{p:.2g}"


def measured(found: Measured) -> str:
    """`0.43 ± 0.02`; nothing where it was not measured."""
    return f"{found.value:.2f} ± {found.error:.2f}" if math.isfinite(found.value) else ""


def at(gains: Mapping[str, float | None], factor: float) -> str:
    """A mean gain at one of the factors that were tried."""
    gain = gains.get(f"{factor:.6g}", math.nan)
    return "diverged" if gain is None else "" if math.isnan(gain) else f"{gain:+.3f}"


def render(reference: Path = REFERENCE, diagnoses: Path = DIAGNOSES) -> str:
    """The page.

    Raises:
        UserError: a reference folder is missing or damaged.
    """
    folder = {study.name: study for study in studies(reference)}
    study = folder[MAIN]
    figures = {name: next(iter(summaries(one)), None) for name, one in folder.items()}
    view, summary = next(iter(study.views), None), figures[MAIN]
    found = [read_diagnosis(path) for path in sorted(diagnoses.glob("*.json"))]
    own = [one for one in found if view and (one.workload, one.reward) == (view.workload, view.reward)]
    seconds = timed([one for one in figures.values() if one is not None])
    assert study.suite is not None
    prices = break_even(view) if view else ()
    choices = study.suite.choices
    again, others = figures.get(AGAIN), figures.get(OTHERS)
    elsewhere = [one for one in summaries(folder[WORKLOADS]) if one.contrasts] if WORKLOADS in folder else []
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "signed": signed, "ends": ends, "p": p_value, "measured": measured, "at": at,
        "code": "`{}`".format, "count": "{:,.0f}".format,
    }  # fmt: skip
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        study=study,
        waiting=listed([f"`{label}`" for label in waiting(study)]),
        summary=summary,
        answer=answers(view, summary, own, seconds) if view and summary else (),
        prices=prices,
        backwards=list(dict.fromkeys(lead.backward for lead in prices)),
        choices=choices,
        factors=sorted({float(factor) for one in choices for factor in one.gains}),
        replicated=replications(summary, again) if summary and again else (),
        quality=quality(own[0].policies[0], view) if view and own else None,
        others=others,
        elsewhere=elsewhere,
        means=[mean_sentence(one) for one in means(folder[WORKLOADS], elsewhere)] if elsewhere else [],
        factor_of=lambda label: next(one.choice.factor for one in others.choices if one.choice.label == label),
        gaps=list(gaps(folder, figures, bool(own))),
    )


def waiting(study: Study) -> list[str]:
    """The labels whose trials have not chosen a rate yet."""
    assert study.suite is not None
    chosen = {choice.label for choice in study.suite.choices}
    return list(dict.fromkeys(cell.label for cell in study.suite.cells if cell.label not in chosen))


def quality(policy: PolicyRecord, view: View) -> Quality:
    """The gradients measured at a policy beside the gains of the view's runs."""
    rows = sorted(label_figures(policy), key=lambda one: -one.whole.q.value)
    gains = {label: t_interval([curve.gain() for curve in view.of(label)]) for label in view.labels}
    return Quality(policy, BUDGET, tuple(rows), gains)


def gaps(folder: Mapping[str, Study], figures: Mapping[str, ViewSummary | None], diagnosed: bool) -> Iterator[str]:
    """What the plan names and these results lack: one sentence each."""
    if not any(view.workload == "shapes-sd" for one in folder.values() for view in one.views):
        yield "The replication in another model format, `shapes-sd`, whose model is not trained yet."
    if TIMED not in folder:
        yield "Timed runs: over seconds nothing is known."
    if not diagnosed:
        yield "The quality of the methods' gradients (`grpo-bench diagnose`)."
    for name, what in (
        (AGAIN, "A replication on fresh seeds"),
        (OTHERS, "Other methods at their own rates"),
        (WORKLOADS, "The family on other workloads"),
        ("shapes-ablations", "The ablations"),
    ):
        if figures.get(name) is None:
            yield f"{what} (`grpo-bench sweep {name}`)."
        elif folder[name].missing:
            yield f"{what}: {len(folder[name].missing)} of its runs (`grpo-bench sweep {name}`)."


def main() -> None:
    """Print whether the page is what the rows give; write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/README.md")
    page = render()
    if parser.parse_args().write:
        PAGE.write_text(page, encoding="utf-8")
    same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page
    print(json.dumps({"page": str(PAGE.relative_to(ROOT)), "characters": len(page), "up_to_date": same}))


if __name__ == "__main__":
    main()
