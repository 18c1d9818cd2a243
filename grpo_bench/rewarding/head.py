"""The head of ImageReward and of LAION's aesthetic predictor: five linear layers, with nothing between them in use."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

LAYERS = ("0", "2", "4", "6", "7")
"""Numbers of the linear layers; those between were dropout. Variants with ReLU have other numbers, and are refused."""


def linear_head(tensors: Mapping[str, Tensor], what: str) -> nn.Sequential:
    """The layers for weights named `0.weight`, `0.bias`, `2.weight` ..., with the widths of these; not yet filled.

    Raises:
        UserError: there are other layers, or one does not take what the one before gives.
    """
    from torch import nn

    found = {name.split(".")[0] for name in tensors}
    if found != set(LAYERS):
        raise UserError(
            f"these are not the weights of {what}: its head has the layers {', '.join(sorted(found)) or 'none'}, not "
            f"{', '.join(LAYERS)}; give the published file"
        )
    shapes = [tuple(tensors[f"{layer}.weight"].shape) for layer in LAYERS if f"{layer}.weight" in tensors]
    chained = all(len(shape) == 2 for shape in shapes) and all(
        into == out for (out, _), (_, into) in itertools.pairwise(shapes)
    )
    if not chained or (len(shapes) == len(LAYERS) and shapes[-1][0] != 1):
        raise UserError(
            f"these are not the weights of {what}: its head's layers have the shapes {shapes}, which do not lead to "
            "one number; give the published file"
        )
    named = zip(LAYERS, (nn.Linear(into, out) for out, into in shapes), strict=False)
    return nn.Sequential(OrderedDict(named))
