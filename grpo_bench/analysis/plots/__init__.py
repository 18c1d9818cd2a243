"""The plots of a study, as files: what is drawn is first collected as plain numbers, and drawn from those alone."""

from __future__ import annotations

from grpo_bench.analysis.plots.write import (
    DATA,
    FORMATS,
    Drawn,
    collect,
    draw_studies,
    plot_data,
    save_data,
    study_styles,
    view_folder,
    warm,
)

__all__ = [
    "DATA",
    "FORMATS",
    "Drawn",
    "collect",
    "draw_studies",
    "plot_data",
    "save_data",
    "study_styles",
    "view_folder",
    "warm",
]
