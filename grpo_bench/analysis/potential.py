"""Exploration potential: the share of a reward's variance that is decided from a grid point on.

At a point, M trunks of a prompt have C children each, which share the state there and differ in all noise after it. W
is the mean variance among siblings; B = var(means of trunks) - W / C, unbiased (one-way analysis of variance). The
share is sum W / sum (W + B), sums over prompts; its error is the jackknife over prompts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grpo_bench.analysis.gradients import NOTHING, Measured, jackknife

Floats = npt.NDArray[np.float64]


def components(score_MCP: Floats) -> tuple[Floats, Floats]:
    """(W, B), each (P,), of the scores of M trunks x C children of P prompts; M and C are at least 2."""
    within_P = score_MCP.var(axis=1, ddof=1).mean(0)
    between_P = score_MCP.mean(1).var(axis=0, ddof=1) - within_P / score_MCP.shape[1]
    return within_P, between_P


def share(within_P: Floats, between_P: Floats) -> Measured:
    """The share decided later, and its error; NaN without any variance, or with one prompt."""
    total_P = within_P + between_P
    if len(total_P) < 2 or total_P.sum() <= 0:
        return NOTHING
    left_out = (within_P.sum() - within_P) / (total_P.sum() - total_P)
    return Measured(float(within_P.sum() / total_P.sum()), jackknife(left_out))
