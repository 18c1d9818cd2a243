"""What the doctor knows of a machine, as plain values: a diagnosis is a function of these and of nothing else."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["ok", "warn", "fail"]
GB = 1e9
KINDS = {"grpo_bench.methods": "method", "grpo_bench.rewards": "reward", "grpo_bench.workloads": "workload",
         "grpo_bench.policies": "policy"}  # fmt: skip
"""Groups of entry points, and what one of each is called."""


@dataclass(frozen=True)
class Package:
    """A distribution; `version` is empty where it is not installed, `bound` what grpo-bench asks for (`>=2.6`)."""

    name: str
    version: str = ""
    bound: str = ""
    fits: bool = True
    tested: str = ""
    """The version in constraints.txt, where the source is at hand."""
    wants: tuple[str, ...] = ()
    """What the distribution itself requires of others, such as `torch==2.14.0`."""


@dataclass(frozen=True)
class Import:
    """The attempt to import a module in another process; `error` is empty where it worked."""

    module: str
    error: str = ""


@dataclass(frozen=True)
class Torch:
    """What torch says of itself; `cuda` is empty for a CPU build, `driver_error` what its CUDA says when it fails."""

    version: str = ""
    cuda: str = ""
    devices: tuple[str, ...] = ()
    device_bytes: tuple[int, ...] = ()
    driver_error: str = ""
    threads: int = 0


@dataclass(frozen=True)
class Host:
    """The machine and the folder for results; sizes in bytes, 0 where they cannot be told."""

    python: str = ""
    executable: str = "python"
    platform: str = ""
    cpu: str = ""
    cores: int = 0
    memory: int = 0
    omp_threads: str = ""
    """$OMP_NUM_THREADS, empty where it is not set."""
    gpus: tuple[str, ...] = ()
    """What the system says of NVIDIA devices, whatever torch says."""
    results: str = ""
    disk_free: int = 0
    results_error: str = ""
    """Why nothing can be written there."""


@dataclass(frozen=True)
class Hub:
    """The model hub; `offline` names the variable that forbids it, `reason` is why it did not answer."""

    endpoint: str = ""
    offline: str = ""
    reachable: bool = False
    reason: str = ""
    token: bool = False
    cache: str = ""
    cached: bool = True
    """Whether the cache is there at all."""


@dataclass(frozen=True)
class Install:
    """Metadata of one grpo-bench on the path: its folder and its entry points (`grpo_bench.rewards:hps`)."""

    path: str
    version: str
    names: frozenset[str]
    on_path: bool = True


@dataclass(frozen=True)
class Weights:
    """A published file of a reward."""

    repo: str
    file: str
    size: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Plugin:
    """One entry point as this process would load it."""

    group: str
    """`grpo_bench.rewards` and so on."""
    name: str
    origin: str
    error: str = ""
    weights: tuple[Weights, ...] = ()
    licence: str = ""
    commercial: bool | None = None
    environment: str = ""
    """State of the environment of its own, empty for what needs none."""

    @property
    def kind(self) -> str:
        """`reward`, `method`, `workload` or `policy`."""
        return KINDS.get(self.group, self.group)


@dataclass(frozen=True)
class Facts:
    """All of it."""

    host: Host = Host()
    packages: tuple[Package, ...] = ()
    imports: tuple[Import, ...] = ()
    torch: Torch = Torch()
    hub: Hub = Hub()
    installs: tuple[Install, ...] = ()
    declared: frozenset[str] = field(default_factory=frozenset)
    """Entry points in the source's pyproject.toml; empty where there is no source."""
    plugins: tuple[Plugin, ...] = ()

    def package(self, name: str) -> Package:
        """The package of that name, without version where it is not installed."""
        return next((one for one in self.packages if one.name == name), Package(name))

    def error(self, module: str) -> str:
        """Why a module cannot be imported; empty where it can, or was not tried."""
        return next((one.error for one in self.imports if one.module == module), "")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what is well, what is limited, what cannot work; and the one command that mends it."""

    section: str
    mark: Mark
    subject: str
    sentence: str
    mend: str = ""


def pip(facts: Facts, arguments: str) -> str:
    """pip of this very environment, which need not be the one that `pip` would be."""
    return f"{shlex.quote(shown(facts.host.executable))} -m pip {arguments}"


def shown(path: str) -> str:
    """Relative to the current folder where it lies below it."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)
