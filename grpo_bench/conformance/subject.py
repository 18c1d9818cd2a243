"""What is checked: a registered method with its settings, made anew for every evaluation, since it may have a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from grpo_bench.builtin import EXACT_WORKLOAD
from grpo_bench.config import RunConfig, build, validated
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Schedule
from grpo_bench.method import ForwardMethod, Method, MethodConfig
from grpo_bench.registry import METHODS, WORKLOADS
from grpo_bench.sources import sources_of
from grpo_bench.training.planning import plan_forest, plan_schedule

SEED = 7
"""All draws of a check are fixed: the same method gives the same figures every time."""

ITERATIONS = (0, 1, 57)
"""Where forests are looked at: the first two, and one after the windows of the built-in methods have moved."""


@dataclass(frozen=True)
class Subject:
    """A method by its registered name, with settings of `[method]` and `[sampling]`.

    `known_as` is the method whose identities it must satisfy, its own name unless a test says otherwise. `fast` leaves
    out the tiny model of the real family and the random forests.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, object] = field(default_factory=dict)
    fast: bool = False
    known_as: str = ""

    @property
    def identity(self) -> str:
        """The name under which its identities are listed."""
        return self.known_as or self.name

    @cached_property
    def kind(self) -> type[Method[MethodConfig]]:
        """The method's class.

        Raises:
            UserError: unknown name, or a plugin that cannot be imported.
        """
        return METHODS.get(self.name)

    @cached_property
    def modules(self) -> dict[str, str]:
        """File of every module that the method brings with it, by module name: its own and what that imports."""
        return {name: str(path) for name, path in sources_of(self.kind, packages=False).modules.items()}

    @property
    def files(self) -> set[str]:
        """Those files."""
        return set(self.modules.values())

    def config(self, workload: str = EXACT_WORKLOAD, **over: object) -> RunConfig:
        """A run of this method on a workload, with `over` laid on top by section."""
        own = {"workload": workload, "seed": SEED, "method": {**self.settings, "name": self.name}}
        layers: list[Mapping[str, object]] = [
            WORKLOADS.get(workload).defaults,
            own,
            {"sampling": dict(self.sampling)},
            over,
        ]
        return build([("check", layer) for layer in layers])

    def method(self) -> Method[MethodConfig]:
        """A fresh instance.

        Raises:
            UserError: a setting that is unknown or breaks its rule.
        """
        return self.kind(validated(self.kind.Config, self.settings, "method"))

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule that plans are drawn on."""
        return plan_schedule(self.config())

    def forest(self, iteration: int) -> Forest:
        """A fresh instance's forest for an iteration."""
        return plan_forest(self.method(), SEED, iteration, self.schedule)

    @cached_property
    def forward(self) -> bool:
        """Whether the method trains on the forward process instead of on edges."""
        return isinstance(self.method(), ForwardMethod)
