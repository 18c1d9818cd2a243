"""Iteration numbers of noise streams that no run and no evaluation draws from."""

from __future__ import annotations

ESTIMATES = 1 << 41
"""Of iteration 0 of a method's estimates; evaluation's begin at 1 << 40."""
TARGETS = 1 << 42
"""Of the first batch of the deployed objective."""
POTENTIAL = 1 << 43
"""Of the first grid point that is branched at."""
