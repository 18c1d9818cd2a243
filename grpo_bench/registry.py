"""The one way in for methods, rewards, workloads and policies: entry points, and `--plugin` files or modules.

Nothing is imported until it is asked for; a broken plugin is listed with its error and hides no other.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from grpo_bench.errors import UserError, nearest
from grpo_bench.guard import calling
from grpo_bench.opened import watching
from grpo_bench.store.names import check_name, check_text

if TYPE_CHECKING:
    from grpo_bench.method import Method, MethodConfig
    from grpo_bench.policies.base import Policy
    from grpo_bench.reward import Reward, RewardConfig
    from grpo_bench.workloads.base import Workload

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One registered name, for `grpo-bench list`.

    `origin` is the distribution or file it came from, `error` why it cannot be loaded (None when it can). `facts` are
    what a reward declares: its range, what it sees, its weights and their licence.
    """

    name: str
    summary: str
    paper: str
    origin: str
    version: str
    error: str | None
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source(Generic[T]):
    origin: str
    version: str
    load: Callable[[], T]
    module: str = ""


class Registry(Generic[T]):
    """Names of one kind. `base` ("package.module:Class") is what a plugin's class must derive from."""

    def __init__(self, kind: str, group: str, base: str) -> None:
        self.kind, self._group, self._base = kind, group, base
        self._plugins: dict[str, _Source[T]] = {}

    def names(self) -> list[str]:
        """All known names, sorted, loadable or not."""
        return sorted(self._sources())

    def modules(self) -> set[str]:
        """The modules that the entry points name; none is imported."""
        return {source.module for source in self._sources().values() if source.module}

    def get(self, name: str) -> T:
        """The class registered under `name`.

        Raises:
            UserError: unknown name (the nearest is offered) or a plugin that cannot be imported.
        """
        sources = self._sources()
        if name not in sources:
            raise UserError(f"no {self.kind} is named {name!r}; {nearest(name, sources)}")
        check_name(name, self.kind)
        with calling(f"{self.kind} {name!r} from {sources[name].origin}", "cannot be loaded", UserError), watching():
            return sources[name].load()

    def brought_by(self, name: str) -> str | None:
        """The plugin (file or module) that brought the name in by `load_plugin`; None where it is installed."""
        source = self._plugins.get(name)
        return None if source is None else source.origin

    def entries(self) -> list[Entry]:
        """Every name with its one-line summary, paper and origin; what fails to load carries its error."""
        return [self._describe(name, source) for name, source in sorted(self._sources().items())]

    def add(self, name: str, load: Callable[[], T], *, origin: str, version: str = "") -> None:
        """Register a plugin's class. A name that no file could have is an error, and so is one that is taken.

        Its own file, installed and named once more, takes nothing: a command that worked before installing still does.
        """
        taken = self._sources().get(check_name(name, self.kind))
        if taken is not None and not _is_module(origin, taken.module):
            raise UserError(f"{self.kind} {name!r} from {origin} is already registered by {taken.origin}; rename one")
        self._plugins[name] = _Source(origin, version, load)

    def classes_in(self, module: ModuleType) -> dict[str, T]:
        """The concrete classes of this kind that `module` itself defines, by their `name`."""
        module_name, _, class_name = self._base.partition(":")
        base: type = vars(importlib.import_module(module_name))[class_name]
        found = {}
        for value in vars(module).values():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and issubclass(value, base) and not inspect.isabstract(value) and hasattr(value, "name"):
                found[str(value.name)] = cast(T, value)
        return found

    def _sources(self) -> dict[str, _Source[T]]:
        sources: dict[str, _Source[T]] = {}
        for point, origin, version in _installed(self._group, tuple(sys.path)):
            if point.name in sources and sources[point.name].origin != origin:
                raise UserError(
                    f"{self.kind} {point.name!r} is registered by both {sources[point.name].origin} and {origin}; "
                    "uninstall one"
                )
            sources[point.name] = self._from_entry_point(point, origin, version)
        return sources | self._plugins

    def _from_entry_point(self, point: EntryPoint, origin: str, version: str) -> _Source[T]:
        def load() -> T:
            return cast(T, point.load())

        return _Source(origin, version, load, point.module)

    def _describe(self, name: str, source: _Source[T]) -> Entry:
        try:
            with calling(f"{self.kind} {name!r} from {source.origin}", "cannot be loaded", UserError):
                value = source.load()
        except (UserError, MemoryError) as error:
            cause = error.__cause__ or error
            return Entry(name, "", "", source.origin, source.version, f"{type(cause).__name__}: {cause}")
        summary = (inspect.getdoc(value) or "").split("\n")[0]
        facts = value.facts() if hasattr(value, "facts") else ()
        return Entry(name, summary, str(getattr(value, "paper", "")), source.origin, source.version, None, facts)


@cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[tuple[EntryPoint, str, str], ...]:
    """The entry points found along `path` (sys.path), each with its distribution's name and version.

    Kept, since reading every package's metadata takes 50 ms, and a suite asks for thousands of names.
    """
    found = ((point, point.dist) for point in entry_points(group=group))
    return tuple((point, dist.name, dist.version) if dist else (point, point.value, "") for point, dist in found)


METHODS: Registry[type[Method[MethodConfig]]] = Registry("method", "grpo_bench.methods", "grpo_bench.method:Method")
REWARDS: Registry[type[Reward[RewardConfig]]] = Registry("reward", "grpo_bench.rewards", "grpo_bench.reward:Reward")
WORKLOADS: Registry[type[Workload]] = Registry("workload", "grpo_bench.workloads", "grpo_bench.workloads.base:Workload")
POLICIES: Registry[type[Policy]] = Registry("policy", "grpo_bench.policies", "grpo_bench.policies.base:Policy")


def load_plugin(target: str) -> list[str]:
    """Import a plugin (a `.py` file or a module name) and register the methods and rewards it defines.

    Returns the names it added.

    Raises:
        UserError: the file is missing, fails to import, or defines neither a method nor a reward.
    """
    check_text(target, "--plugin")
    with watching():
        module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    added = []
    for name, method in METHODS.classes_in(module).items():
        METHODS.add(name, lambda method=method: method, origin=target)  # type: ignore[misc]
        added.append(name)
    for name, reward in REWARDS.classes_in(module).items():
        REWARDS.add(name, lambda reward=reward: reward, origin=target)  # type: ignore[misc]
        added.append(name)
    if not added:
        raise UserError(f"plugin {target!r} defines no Method and no Reward with a `name`; add one, or check the file")
    return added


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"plugin file {str(path)!r} does not exist; give the path of a .py file")
    # The digest keeps two files of one name apart: a run's id hashes the source of the method's module.
    name = f"grpo_bench_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:10]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with calling(f"plugin {str(path)!r}", "cannot be imported", UserError):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_module(target: str, module: str) -> bool:
    """Whether a plugin (file or module name) is the module that an entry point names; looked up, not imported."""
    if not module or not target.endswith(".py"):
        return bool(module) and target == module
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(target).resolve()


def _import_module(name: str) -> ModuleType:
    with calling(f"plugin {name!r}", "cannot be imported", UserError):
        return importlib.import_module(name)
