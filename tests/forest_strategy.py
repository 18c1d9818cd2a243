"""Random valid forests, for every property that must hold for any method's topology."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from grpo_bench.forest.builders import assemble
from grpo_bench.forest.forest import Forest

MOST_NODES = 60


@st.composite
def forests(draw: st.DrawFn, *, max_steps: int = 5, jumps: bool = True) -> Forest:
    """Any forest: each node draws its stochastic children, and deterministic ones to different grid points.

    With `jumps` an edge may lead to any later point. Noise levels and sibling noise are drawn too.
    """
    steps = draw(st.integers(1, max_steps))
    roots = draw(st.integers(1, 3))
    parent, depth, stochastic = [-1] * roots, [0] * roots, [False] * roots
    for node in range(MOST_NODES * 20):
        if node == len(parent):
            break
        if depth[node] == steps:
            continue
        later = st.integers(depth[node] + 1, steps if jumps else depth[node] + 1)
        room = len(parent) < MOST_NODES
        noisy = draw(st.lists(later, max_size=3)) if room else []
        # Where there is no room left, a node without children goes straight on, so that the forest ends.
        plain = draw(st.sets(later, min_size=not noisy, max_size=2 if room else 1))
        parent += [node] * (len(noisy) + len(plain))
        depth += [*noisy, *plain]
        stochastic += [True] * len(noisy) + [False] * len(plain)
    trained = [edge and draw(st.booleans()) for edge in stochastic]
    return assemble(
        np.linspace(1, 0, steps + 1),
        parent,
        depth,
        stochastic,
        trained,
        sibling_noise=draw(st.sampled_from([None, 2.0])),
        noise_T=draw(st.none() | st.lists(st.sampled_from([0.5, 1.0, 1.5]), min_size=steps, max_size=steps)),
    )
