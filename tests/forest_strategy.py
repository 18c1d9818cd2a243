"""Random valid forests, for every property that must hold for any method's topology."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from grpo_bench.forest.forest import Forest

MOST_NODES = 60


@st.composite
def forests(draw: st.DrawFn, *, max_steps: int = 5) -> Forest:
    """Any forest: each node draws its own number of stochastic children and whether it has an ODE child."""
    steps = draw(st.integers(1, max_steps))
    parent, depth, stochastic = [], [], []
    frontier = list(range(draw(st.integers(1, 3))))
    parent += [-1] * len(frontier)
    depth += [0] * len(frontier)
    stochastic += [False] * len(frontier)
    for step in range(steps):
        born = []
        for node in frontier:
            noisy = draw(st.integers(0, 3)) if len(parent) < MOST_NODES else 0
            edges = [True] * noisy + [False] * (1 if noisy == 0 or draw(st.booleans()) else 0)
            born += range(len(parent), len(parent) + len(edges))
            parent += [node] * len(edges)
            stochastic += edges
        depth += [step + 1] * len(born)
        frontier = born
    trained = [edge and draw(st.booleans()) for edge in stochastic]
    return Forest(
        np.linspace(1, 0, steps + 1),
        np.array(parent),
        np.array(depth),
        np.array(stochastic),
        np.array(trained),
        forward_draws=draw(st.integers(0, 2)),
    )
