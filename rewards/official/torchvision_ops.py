"""Lets torchvision be imported beside a torch without CUDA, by the scorers here only."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import torch

_KEPT: list[torch.library.Library] = []
"""An operator lasts as long as the library object that declared it."""


def mend() -> None:
    """Declare the two operators without which `import torchvision` fails, if its own library cannot be loaded.

    The registry's torchvision for Linux is linked to CUDA, so that it does not load beside torch for the CPU, and then
    its import stops at `nms`. The scorers use its image transforms, which need neither of the two.
    """
    folder = Path(str(distribution("torchvision").locate_file("torchvision")))
    for library in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return
    declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(declared)


mend()
