"""The report as one HTML file: nothing is fetched, nothing but its own scripts may run, and all data is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grpo_bench import __version__
from grpo_bench.analysis.axes import AXES
from grpo_bench.analysis.means import means
from grpo_bench.analysis.plots.gradients import panel
from grpo_bench.analysis.report import fairness, origin, tables, verdict
from grpo_bench.analysis.report.answer import Sentence, answer
from grpo_bench.analysis.report.claimed import claims
from grpo_bench.analysis.report.figures import Json, dark, ink_classes, styles, view_data
from grpo_bench.analysis.report.images import MOST_BYTES, Gallery, gallery
from grpo_bench.analysis.report.ranking import Ranking, ranking
from grpo_bench.analysis.report.samples import samples
from grpo_bench.analysis.report.words import Table, amount, clean, many
from grpo_bench.analysis.study import Study, View, studies
from grpo_bench.analysis.summary import AxisSummary, ViewSummary, summaries
from grpo_bench.errors import UserError
from grpo_bench.palette import Style
from grpo_bench.store.atomic import output_file, write_text
from grpo_bench.store.diagnosis import Diagnosis, read_diagnosis

HERE = Path(__file__).parent
SCRIPTS = ("numbers.js", "figures.js", "page.js")


@dataclass(frozen=True)
class ViewPart:
    """One view on the page."""

    anchor: str
    title: str
    facts: str
    answer: tuple[Sentence, ...]
    """Of a tuned suite; the others open with who is on the frontier."""
    headline: str
    decided: tuple[str, ...]
    caveats: tuple[str, ...]
    cuts: tuple[str, ...]
    frontier: Table
    contrasts: Table
    methods: Table
    equal_cost: Table
    fairness: fairness.Card
    rates: Table | None
    tuning: tuple[Table, Table] | None
    ranking: Ranking
    ended: Table
    images: Gallery
    labels: tuple[str, ...]
    drawn: bool
    """Whether there is a finished run to draw."""


@dataclass(frozen=True)
class StudyPart:
    """One study on the page."""

    anchor: str
    title: str
    views: tuple[ViewPart, ...]
    means: tuple[str, ...]
    """A sentence for each contrast over the study's workloads."""
    environment: Table
    missing: Table | None
    commands: tuple[str, ...]
    digest: str


def write_report(folder: Path, output: Path, diagnoses: Sequence[Path] = ()) -> int:
    """Write the report of all studies of a folder, whole or not at all; returns its bytes.

    `diagnoses` are files of `grpo-bench diagnose`, shown beside the runs on their workload and reward.

    Raises:
        UserError: the folder holds no runs, or runs that may not be compared; a diagnosis is missing, damaged or of no
            view; or the disk refuses.
    """
    output = output_file(output)
    found = studies(folder)
    text = render(found, [_diagnosis(path, found) for path in diagnoses])
    write_text(output, text, "the report")
    return len(text.encode())


def _diagnosis(path: Path, found: Sequence[Study]) -> Diagnosis:
    diagnosis = read_diagnosis(path)
    scenes = {(view.workload, view.reward) for study in found for view in study.views}
    if (diagnosis.workload, diagnosis.reward) not in scenes:
        raise UserError(
            f"{path} is about {diagnosis.workload} with reward {diagnosis.reward}, and no run here is; leave it out"
        )
    return diagnosis


def render(found: Sequence[Study], diagnoses: Sequence[Diagnosis] = ()) -> str:
    """The page as HTML."""
    drawn = styles(found)
    figures = [summaries(study) for study in found]
    share = MOST_BYTES // max(1, sum(len(study.views) for study in found))
    seconds = timed([one for own in figures for one in own])
    parts = [_study(place, study, figures[place], share, diagnoses, seconds) for place, study in enumerate(found)]
    data: Json = {
        part.anchor: view_data(view, summary, drawn)
        for place, study in enumerate(found)
        for part, view, summary in zip(parts[place].views, study.views, figures[place], strict=True)
    }
    sheets = [_read("report.css") + _ink(drawn), _read("plotly.css")]
    scripts = [_plotly(), "\n".join(_read(name) for name in SCRIPTS)]
    template = _environment().get_template("page.html")
    return template.render(
        title="; ".join(part.title for part in parts),
        studies=parts,
        claims=claims(found),
        notes=origin.notes(found),
        definitions=tables.DEFINITIONS,
        version=__version__,
        style_of=samples(drawn),
        data=script_json(data),
        sheets=[Markup(sheet) for sheet in sheets],
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts, sheets),
        stand_ins=_stand_ins(scripts[0]),
    )


def script_json(data: Json) -> Markup:
    """JSON that cannot end or break the script element it stands in; NaN and infinity are refused."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def timed(figures: Sequence[ViewSummary]) -> dict[tuple[str, str], AxisSummary]:
    """By workload and reward, the comparison over seconds of tuned labels that had their machine to themselves."""
    return {
        (one.workload, one.reward): axis
        for one in figures
        if one.protocol == "tuned"
        for axis in one.axes
        if axis.axis == "seconds"
    }


def answers(
    view: View,
    summary: ViewSummary,
    diagnoses: Sequence[Diagnosis],
    seconds: Mapping[tuple[str, str], AxisSummary],
) -> tuple[Sentence, ...]:
    """The answer that a tuned view opens with, beside the diagnosis and the timed runs of its workload and reward."""
    scene = (view.workload, view.reward)
    policies = [one for own in diagnoses if (own.workload, own.reward) == scene for one in own.policies]
    ranks = panel(policies[0], view).ranks if policies else None
    return answer(summary, seconds.get(scene), ranks) if summary.protocol == "tuned" else ()


def _study(
    place: int,
    study: Study,
    summaries: Sequence[ViewSummary],
    share: int,
    diagnoses: Sequence[Diagnosis],
    seconds: Mapping[tuple[str, str], AxisSummary],
) -> StudyPart:
    anchor = f"study-{place + 1}"
    return StudyPart(
        anchor=anchor,
        title=clean(study.title or study.name, 200),
        views=tuple(
            _view(f"{anchor}-view-{number + 1}", view, summary, share, diagnoses, seconds)
            for number, (view, summary) in enumerate(zip(study.views, summaries, strict=True))
        ),
        means=tuple(verdict.mean_sentence(mean) for mean in means(study, summaries)),
        environment=origin.environment(study),
        missing=origin.missing(study),
        commands=origin.commands(study),
        digest=origin.digest(study),
    )


def _view(
    anchor: str,
    view: View,
    summary: ViewSummary,
    share: int,
    diagnoses: Sequence[Diagnosis],
    seconds: Mapping[tuple[str, str], AxisSummary],
) -> ViewPart:
    budget = next((curve.config.get("budget") for curve in view.curves), None)
    allowed = ", ".join(f"{amount(value)} {kind}" for kind, value in budget.items()) if isinstance(budget, dict) else ""
    runs = f"{many(len(view.curves), 'finished run')} of {many(len(view.labels), 'method')}"
    return ViewPart(
        anchor=anchor,
        title=f"{clean(view.workload)}, trained on {clean(view.reward)}: {view.protocol} protocol",
        facts="; ".join(fact for fact in (runs, f"budget {allowed}" if allowed else "", f"tier {view.tier}") if fact),
        answer=answers(view, summary, diagnoses, seconds),
        headline=verdict.headline(summary),
        decided=verdict.decided(summary) if summary.methods else (),
        caveats=verdict.caveats(summary),
        cuts=tuple(
            sentence
            for sentence in (
                "Without references frozen in a suite, hypervolumes and targets are taken from these runs themselves."
                if not summary.frozen and summary.methods
                else "",
                verdict.absent_axes(summary, AXES),
            )
            if sentence
        ),
        frontier=tables.frontier(summary),
        contrasts=tables.contrasts(summary),
        methods=tables.methods(summary),
        equal_cost=tables.equal_cost(summary),
        fairness=fairness.card(view, summary),
        rates=tables.rates(summary),
        tuning=tables.tuning(summary),
        ranking=ranking(view, diagnoses),
        ended=tables.ended(summary),
        images=gallery(view, share),
        labels=view.labels,
        drawn=bool(summary.axes),
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _harmless(value: object) -> object:
    """Whatever text reaches the page, controls and terminal sequences do not; markup of our own is left alone."""
    return clean(value, 10_000) if isinstance(value, str) and not isinstance(value, Markup) else value


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js as the Python package brings it; a closing tag inside it would end the script element."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source.replace("\r", "").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _stand_ins(source: str) -> list[str]:
    """Ids under which plotly.js keeps the style sheets of maps; it makes none where an element has that id.

    There are no maps here, and the policy would refuse the sheet and say so in the reader's console.
    """
    return re.findall(r'createElement\("style"\);\w+\.id="(\w+)"', source)


def _policy(scripts: Sequence[str], sheets: Sequence[str]) -> str:
    """The content security policy: only these very scripts and sheets, images from the file itself, no network."""
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(sheets)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _ink(drawn: Mapping[str, Style]) -> str:
    """One class a label, whose colour depends on the ground it stands on."""
    inks = ink_classes(drawn)
    light = "".join(f".{inks[label]}{{--ink:{style.colour}}}" for label, style in drawn.items())
    night = "".join(f".{inks[label]}{{--ink:{dark(style.colour)}}}" for label, style in drawn.items())
    return f"\n{light}\n@media screen and (prefers-color-scheme:dark){{{night}}}\n"
