"""What `coverage_twoway.simulate` and `simulate_welch` measured, in per cent, with 10,000 data sets a row."""

from __future__ import annotations

from grpo_bench.analysis.coverage_twoway import Law, Measured, Size, Source

EVEN: tuple[Law, ...] = ("normal", "skewed", "binary")
"""Laws that both methods of a difference follow."""

TABLE: dict[Law, dict[Size, dict[Source, Measured]]] = {
    "normal": {
        (5, 30): {
            "seeds": Measured(94.3, 94.4, 87.2, 5.5),
            "both": Measured(95.1, 90.7, 95.1, 5.1),
            "prompts": Measured(95.7, 74.2, 96.5, 4.6),
        },
        (5, 60): {
            "seeds": Measured(94.8, 94.9, 85.8, 5.2),
            "both": Measured(94.8, 92.5, 93.6, 5.1),
            "prompts": Measured(95.5, 77.6, 96.7, 4.7),
        },
        (10, 30): {
            "seeds": Measured(95.2, 94.7, 92.4, 5.1),
            "both": Measured(95.2, 84.3, 95.7, 5.1),
            "prompts": Measured(95.2, 56.5, 95.4, 5.0),
        },
        (10, 60): {
            "seeds": Measured(95.0, 94.8, 91.7, 5.1),
            "both": Measured(95.4, 88.7, 95.4, 4.9),
            "prompts": Measured(95.3, 59.6, 96.1, 5.1),
        },
    },
    "skewed": {
        (5, 30): {
            "seeds": Measured(95.9, 95.8, 88.6, 4.7),
            "both": Measured(95.6, 90.3, 95.4, 4.9),
            "prompts": Measured(95.9, 74.3, 96.6, 4.5),
        },
        (5, 60): {
            "seeds": Measured(96.3, 96.4, 86.7, 4.7),
            "both": Measured(95.2, 92.1, 93.9, 5.0),
            "prompts": Measured(96.0, 77.3, 96.7, 4.6),
        },
        (10, 30): {
            "seeds": Measured(95.4, 94.8, 91.8, 5.1),
            "both": Measured(95.2, 82.7, 95.6, 5.2),
            "prompts": Measured(95.3, 56.5, 95.5, 5.1),
        },
        (10, 60): {
            "seeds": Measured(95.5, 95.3, 91.0, 4.9),
            "both": Measured(95.4, 87.3, 95.2, 5.0),
            "prompts": Measured(95.0, 59.4, 95.8, 5.1),
        },
    },
    "skewed, one side": {
        (5, 30): {
            "seeds": Measured(89.4, 89.4, 85.4, 14.1),
            "both": Measured(94.2, 88.6, 94.9, 7.7),
            "prompts": Measured(95.2, 74.6, 96.2, 6.3),
        },
        (5, 60): {
            "seeds": Measured(88.5, 88.8, 82.4, 15.1),
            "both": Measured(93.6, 89.6, 93.8, 9.4),
            "prompts": Measured(95.2, 75.4, 96.6, 6.2),
        },
        (10, 30): {
            "seeds": Measured(91.3, 90.5, 90.4, 11.4),
            "both": Measured(94.2, 81.7, 95.3, 7.6),
            "prompts": Measured(94.9, 57.3, 95.8, 7.5),
        },
        (10, 60): {
            "seeds": Measured(91.1, 90.8, 88.9, 12.1),
            "both": Measured(94.5, 85.9, 94.8, 7.8),
            "prompts": Measured(94.7, 58.7, 95.8, 6.8),
        },
    },
    "binary": {
        (5, 30): {
            "seeds": Measured(95.3, 94.3, 96.7, 5.4),
            "both": Measured(96.5, 92.3, 98.7, 4.7),
            "prompts": Measured(96.7, 90.3, 98.8, 4.6),
        },
        (5, 60): {
            "seeds": Measured(94.1, 93.8, 94.2, 5.4),
            "both": Measured(95.7, 92.4, 98.4, 4.9),
            "prompts": Measured(96.4, 90.1, 99.0, 4.7),
        },
        (10, 30): {
            "seeds": Measured(95.2, 92.9, 97.6, 6.1),
            "both": Measured(95.0, 86.7, 98.5, 6.4),
            "prompts": Measured(95.5, 82.2, 98.4, 6.2),
        },
        (10, 60): {
            "seeds": Measured(94.7, 93.4, 96.4, 5.7),
            "both": Measured(95.5, 88.6, 98.6, 5.4),
            "prompts": Measured(95.3, 82.7, 98.4, 5.6),
        },
    },
}
"""By law, size (seeds, prompts) and where the variance of the mean mostly comes from."""

WELCH: dict[Law, dict[Size, float]] = {
    "normal": {(5, 30): 94.6, (5, 60): 94.5, (10, 30): 94.8, (10, 60): 94.7},
    "skewed": {(5, 30): 95.6, (5, 60): 95.6, (10, 30): 95.2, (10, 60): 95.4},
    "skewed, one side": {(5, 30): 93.2, (5, 60): 91.7, (10, 30): 94.3, (10, 60): 93.6},
    "binary": {(5, 30): 96.5, (5, 60): 95.6, (10, 30): 95.4, (10, 60): 95.0},
}
"""Of the mean over three workloads, one of each source."""


def two_way_sentence(seeds: int, prompts: int) -> str:
    """What a two-way interval was measured to cover at the next smaller size; below all of them it was not."""
    sizes = sorted(TABLE["normal"])
    size = max((one for one in sizes if one[0] <= seeds and one[1] <= prompts), default=None)
    if size is None:
        fewest = "only from {} and {} on".format(*sizes[0])
        return f"nominal 95%, not measured for {seeds} seeds and {prompts} prompts, {fewest}"
    even = [measured.two_way for law in EVEN for measured in TABLE[law][size].values()]
    odd = [measured.two_way for measured in TABLE["skewed, one side"][size].values()]
    return (
        f"nominal 95%, measured {min(even):.0f} to {max(even):.0f}% at {size[0]} seeds and {size[1]} prompts, and "
        f"{min(odd):.0f} to {max(odd):.0f}% where one method's part alone is skewed"
    )
