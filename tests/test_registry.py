"""Names and where they come from: entry points and plugins, lazily, without one hiding another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_bench import registry
from grpo_bench.errors import UserError
from grpo_bench.method import Method, MethodConfig
from grpo_bench.registry import METHODS, REWARDS, Registry, load_plugin

GOOD = '''
import numpy as np
from grpo_bench import Credit, Forest, Method, Reward, Rollout, chains, leaf_credit


class Pair(Method):
    """Two chains, the least there is."""

    name = "{name}"
    paper = "1234.56789"

    def plan(self, iteration, rng, schedule):
        stochastic = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, 2, stochastic)

    def credit(self, rollout):
        return leaf_credit(rollout, std="group", eps=0.0)
'''
REWARD = '''
from grpo_bench import Reward


class Constant(Reward):
    """Always one."""

    name = "constant"
    range = (1.0, 1.0)

    def score(self, images_BCHW, prompts):
        return images_BCHW.new_ones(len(prompts))
'''


@pytest.fixture(autouse=True)
def no_plugins_left() -> Iterator[None]:
    """Every test starts and ends with what is installed."""
    before = {registry: dict(registry._plugins) for registry in (METHODS, REWARDS)}
    yield
    for kept, plugins in before.items():
        kept._plugins.clear()
        kept._plugins.update(plugins)
    for name in [name for name in sys.modules if name.startswith("grpo_bench_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path like site-packages: `distribution` puts packages with entry points into it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def distribution(folder: Path, name: str, points: str, **modules: str) -> None:
    """What pip leaves of a third party's package."""
    info = folder / f"{name}-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source, encoding="utf-8")


def write(folder: Path, source: str, name: str = "mine.py") -> str:
    (folder / name).write_text(source, encoding="utf-8")
    return str(folder / name)


def test_built_ins_come_through_entry_points() -> None:
    assert {"flat", "mix", "tree"} <= set(METHODS.names())
    entry = next(entry for entry in METHODS.entries() if entry.name == "flat")

    assert (entry.origin, entry.paper, entry.error) == ("grpo-bench", "2505.05470", None)
    assert entry.summary.startswith("Flat GRPO") and "\n" not in entry.summary


@pytest.mark.parametrize(("typed", "offer"), [("falt", "did you mean 'flat'?"), ("zzzz", "known: ")])
def test_unknown_name_offers_the_nearest_or_all(typed: str, offer: str) -> None:
    with pytest.raises(UserError) as caught:
        METHODS.get(typed)

    assert f"no method is named {typed!r}" in str(caught.value) and offer in str(caught.value)


def test_installed_package_registers_a_method(installed: Path) -> None:
    distribution(
        installed, "third-party", "[grpo_bench.methods]\npair = third_pair:Pair\n", third_pair=GOOD.format(name="pair")
    )

    assert METHODS.get("pair").paper == "1234.56789"
    entry = next(entry for entry in METHODS.entries() if entry.name == "pair")
    assert (entry.origin, entry.version, entry.summary) == ("third-party", "1.2.3", "Two chains, the least there is.")


def test_nothing_is_imported_before_it_is_asked_for(installed: Path) -> None:
    distribution(
        installed, "lazy", "[grpo_bench.methods]\nlazy = lazy_module:Pair\n", lazy_module=GOOD.format(name="lazy")
    )

    assert "lazy" in METHODS.names()
    METHODS.get("flat")

    assert "lazy_module" not in sys.modules


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = (", "SyntaxError"),
        ("", "AttributeError"),
    ],
    ids=["import", "exit", "syntax", "no such class"],
)  # fmt: skip
def test_broken_package_is_listed_with_its_error_and_hides_no_other(
    installed: Path, source: str, error: str, request: pytest.FixtureRequest
) -> None:
    module = f"broken_{abs(hash(source))}"
    distribution(installed, "broken", f"[grpo_bench.methods]\nbroken = {module}:Pair\n", **{module: source})

    # then the others are listed beside it and work
    entries = {entry.name: entry for entry in METHODS.entries()}
    assert entries["broken"].error is not None and entries["broken"].error.startswith(error)
    assert entries["flat"].error is None and METHODS.get("flat").name == "flat"

    # and asking for it says what is wrong and where it came from
    with pytest.raises(UserError, match=f"method 'broken' from broken cannot be loaded: {error}"):
        METHODS.get("broken")


def test_two_packages_with_one_name_are_an_error(installed: Path) -> None:
    for name in ("one", "two"):
        distribution(installed, name, f"[grpo_bench.methods]\nclash = {name}_clash:Pair\n")

    with pytest.raises(UserError, match=r"'clash' is registered by both (one and two|two and one); uninstall one"):
        METHODS.names()


def test_plugin_file_registers_its_methods_and_rewards(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.format(name="pair") + REWARD)

    assert load_plugin(path) == ["pair", "constant"]

    entry = next(entry for entry in METHODS.entries() if entry.name == "pair")
    assert (entry.origin, entry.error) == (path, None)
    assert REWARDS.get("constant").range == (1.0, 1.0)


def test_plugin_module_registers_its_methods(installed: Path) -> None:
    write(installed, GOOD.format(name="from-module"), "plugin_module.py")

    assert load_plugin("plugin_module") == ["from-module"]
    assert METHODS.get("from-module").name == "from-module"


def test_plugin_registers_only_what_it_defines_itself(tmp_path: Path) -> None:
    # given a plugin that imports a built-in method, has an abstract one, and derives a new one
    path = write(
        tmp_path,
        "from abc import abstractmethod\nfrom grpo_bench_methods.flat import FlatGRPO\nfrom grpo_bench import Method\n"
        "class Half(Method):\n    name = 'half'\n"
        "class Child(FlatGRPO):\n    '''Flat again.'''\n    name = 'child'\n",
    )

    assert load_plugin(path) == ["child"]


def test_plugin_may_not_take_a_name(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.format(name="flat"))

    with pytest.raises(UserError, match=r"method 'flat' from .*mine\.py is already registered by grpo-bench; rename"):
        load_plugin(path)


@pytest.mark.parametrize("target", ["own_pair.py", "own_pair"])
def test_an_installed_method_may_be_named_as_a_plugin_too(
    installed: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    # given a method that is installed from the very file that --plugin names
    points = "[grpo_bench.methods]\npair = own_pair:Pair\n"
    distribution(installed, "third-party", points, own_pair=GOOD.format(name="pair"))
    monkeypatch.chdir(installed)

    assert load_plugin(target) == ["pair"]
    assert METHODS.get("pair").paper == "1234.56789"


def test_another_file_of_an_installed_methods_name_is_refused(installed: Path, tmp_path: Path) -> None:
    points = "[grpo_bench.methods]\npair = own_pair:Pair\n"
    distribution(installed, "third-party", points, own_pair=GOOD.format(name="pair"))
    (tmp_path / "copy").mkdir()

    with pytest.raises(UserError, match="is already registered by third-party"):
        load_plugin(write(tmp_path / "copy", GOOD.format(name="pair"), "own_pair.py"))


@pytest.mark.parametrize("name", ["My Method", "../flat", "x" * 65, "\\x1b[31mred"])
def test_plugin_needs_a_name_that_a_run_can_carry(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not a valid name"):
        load_plugin(write(tmp_path, GOOD.format(name=name)))


@pytest.mark.parametrize("source", ["", "x = 1\n", "from grpo_bench import Method\n"])
def test_plugin_without_a_method_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match="defines no Method and no Reward"):
        load_plugin(write(tmp_path, source))


@pytest.mark.parametrize("source", ["import nothing_of_that_name", "1/0", "def (", "raise SystemExit(0)", "\0"])
def test_plugin_that_fails_to_import_is_one_sentence(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"mine\.py' cannot be imported: \w+"):
        load_plugin(write(tmp_path, source))
    assert not [name for name in sys.modules if name.startswith("grpo_bench_plugin_") and name.endswith("_mine")]


def test_missing_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plugin file .* does not exist"):
        load_plugin(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="plugin 'no_such_module' cannot be imported: ModuleNotFoundError"):
        load_plugin("no_such_module")


def test_two_plugin_files_of_one_file_name_live_side_by_side(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        load_plugin(write(tmp_path / folder, GOOD.format(name=f"pair-{folder}")))

    a, b = METHODS.get("pair-a"), METHODS.get("pair-b")
    assert (a.name, b.name) == ("pair-a", "pair-b")
    assert sys.modules[a.__module__] is not sys.modules[b.__module__]


def test_a_registry_of_ones_own() -> None:
    own: Registry[type[Method[MethodConfig]]] = registry.Registry("method", "no.such.group", "grpo_bench.method:Method")

    assert own.names() == [] and own.entries() == []
    with pytest.raises(UserError, match="none is installed"):
        own.get("flat")
