"""Integers that say which results may be compared with which."""

RULES_VERSION = 2
"""Version of RULES.md. Plots refuse to mix two of them."""

NUMERICS_VERSION = 3
"""Raised whenever a golden-number test changes: the same config no longer gives the same run."""
