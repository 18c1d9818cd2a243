"""The contract of a workload: which model, which prompts, which judge, and the settings that suit them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from grpo_bench.config import RunConfig, Table

Tier = Literal["analytic", "tiny", "geometry", "real"]
Splits = Mapping[str, tuple[str, ...]]


class Workload(ABC):
    """What a run is run on. Its docstring's first line is its summary in `grpo-bench list`."""

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    tier: ClassVar[Tier]
    gold: ClassVar[str]
    """Reward that judges the truth; empty: the proxy itself, and no gap is drawn."""
    replicates: ClassVar[str] = ""
    """Workload whose captions and judge this one has with another model: it stands outside means over workloads."""
    defaults: ClassVar[Table]
    """Settings laid on the global defaults, below recipes."""

    @abstractmethod
    def model(self, config: RunConfig) -> str:
        """Folder or hub id of the policy's pipeline; UserError when the config names none."""

    @abstractmethod
    def prompts(self, config: RunConfig) -> Splits:
        """Prompts by split; `train` and `heldout` always exist and are not empty."""
