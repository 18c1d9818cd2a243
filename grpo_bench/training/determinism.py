"""The mode that makes a run the same bits every time; one place, so that benchmarks measure what runs have."""

from __future__ import annotations

import torch


def deterministic() -> None:
    """Have torch choose deterministic kernels where it has them; where it has none it warns.

    In this mode torch also fills all memory that it hands out uninitialised, so that a read of it would show. Nothing
    here reads any (a test runs with the filling and without it), and filling costs 1% of a rollout and 9% of decoding.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
