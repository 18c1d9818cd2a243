"""The figures that go with a ranking, as files: OUT/NAME.png and .pdf, and diagnosis.json with every number drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.analysis.plots import breakeven, distance, gradients, potential
from grpo_bench.analysis.plots.style import Format, house_style
from grpo_bench.analysis.plots.write import FORMATS, Drawn, plain, save_data, save_figure
from grpo_bench.palette import label_styles
from grpo_bench.store.atomic import saving

if TYPE_CHECKING:
    from grpo_bench.analysis.diagnosis import RankCorrelation
    from grpo_bench.analysis.study import View
    from grpo_bench.store.diagnosis import Diagnosis, PolicyRecord

DATA = "diagnosis.json"


def ranks_at(policy: PolicyRecord, view: View) -> RankCorrelation:
    """Of quality at the policy with mean gain, over the labels that have both: what the figure says."""
    return gradients.panel(policy, view).ranks


def draw_diagnosis(diagnosis: Diagnosis, view: View | None, out: Path, formats: Sequence[Format] = FORMATS) -> Drawn:
    """Draw what the data allow; a sentence for each figure that they do not.

    Args:
        diagnosis: the stored products and variances.
        view: the runs whose gains go with them; None: only what needs no run is drawn.
        out: the folder.
        formats: of the pictures.

    Raises:
        UserError: the disk refuses.
    """
    methods = {one.label: one.method for policy in diagnosis.policies for one in policy.labels}
    if view is not None:
        methods |= {label: view.method(label) for label in view.all_labels}
    styles = label_styles(methods)
    quality = gradients.collect(diagnosis, view)
    shares = potential.collect(diagnosis)
    apart, leads = (distance.collect(view), breakeven.collect(view)) if view is not None else (None, None)
    figures, notes = {}, []
    with house_style():
        if quality is not None:
            figures["gradients"] = gradients.draw(quality, styles)
        else:
            notes.append("no label has both a gradient's quality and a gain, so that the two are not drawn")
        if shares is not None:
            figures["potential"] = potential.draw(shares, styles)
        else:
            notes.append("no exploration potential was measured, so that it is not drawn")
        if apart is not None:
            figures["distance"] = distance.draw(apart, styles)
        if leads is not None:
            figures["break-even"] = breakeven.draw(leads, styles)
        with saving("the plots", out):
            out.mkdir(parents=True, exist_ok=True)
        files = [file for name, figure in figures.items() for file in save_figure(figure, out / name, formats)]
    drawn = {"gradients": quality, "potential": shares, "distance": apart, "break-even": leads}
    files.append(save_data({name: plain(data) for name, data in drawn.items() if data is not None}, out / DATA))
    return Drawn(tuple(sorted(files)), tuple(notes))
