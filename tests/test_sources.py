"""What a plugin brings with it: its modules, followed through their imports, the files they name, their libraries."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grpo_bench.errors import UserError
from grpo_bench.opened import watching
from grpo_bench.registry import METHODS, REWARDS, WORKLOADS, load_plugin
from grpo_bench.sources import Sources, is_engine, sources_of

Load = Callable[[str], type]

REWARD = "class R:\n    pass\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports class `R` of a module that lies in `tmp_path`, and forgets everything of it afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(name: str) -> type:
        with watching():
            return vars(importlib.import_module(name))["R"]

    yield load
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    """Python files, by path without `.py`."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


PACKAGE = {
    "pkg/__init__": "",
    "pkg/deep/__init__": "",
    "pkg/own": "from . import near\n" + REWARD,
    "pkg/near": "def scale():\n    from pkg.deep.far import SCALE\n    return SCALE\n",
    "pkg/deep/far": "SCALE = 1.0\n",
    "pkg/unrelated": "OTHER = 1\n",
    "pkg/types": "KIND = 1\n",
}
"""A plugin package: `pkg.own` imports `pkg.near`, which imports `pkg.deep.far` inside a function."""


def changed(kind: type, path: Path, text: str) -> bool:
    """Whether the digest is another one after `text` is written over a file; the file is put back."""
    before, old = sources_of(kind).digest(), path.read_bytes()
    path.write_text(text, encoding="utf-8")
    after = sources_of(kind).digest()
    path.write_bytes(old)
    assert sources_of(kind).digest() == before
    return after != before


@pytest.mark.parametrize("module", ["own", "near", "deep/far", "__init__", "deep/__init__"])
def test_editing_any_module_that_is_imported_on_the_way_is_another_source(
    tmp_path: Path, load: Load, module: str
) -> None:
    write(tmp_path, PACKAGE)
    path = tmp_path / "pkg" / f"{module}.py"

    assert changed(load("pkg.own"), path, path.read_text(encoding="utf-8") + "# a word\n")


def test_editing_what_is_not_imported_is_the_same_source(tmp_path: Path, load: Load) -> None:
    write(tmp_path, PACKAGE)
    own = tmp_path / "pkg" / "own.py"
    own.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.types import KIND\n" + own.read_text()
    )
    kind = load("pkg.own")

    assert not changed(kind, tmp_path / "pkg" / "unrelated.py", "OTHER = 2\n")
    assert not changed(kind, tmp_path / "pkg" / "types.py", "KIND = 2\n")


@pytest.mark.parametrize(
    "line",
    [
        "import helper",
        "from helper import SIGN",
        "from helper import *",
        "import importlib; helper = importlib.import_module('helper')",
        "helper = __import__('helper')",
        "try:\n    import absent\nexcept ImportError:\n    import helper",
        "class Inner:\n    import helper",
    ],
)
def test_every_way_to_import_a_helper_is_followed(tmp_path: Path, load: Load, line: str) -> None:
    write(tmp_path, {"mine": f"{line}\n{REWARD}", "helper": "SIGN = 1.0\n"})

    assert changed(load("mine"), tmp_path / "helper.py", "SIGN = -1.0\n")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("table.json", "TABLE = Path(__file__).parent / 'table.json'"),
        ("data/table.npy", "TABLE = Path(__file__).parent / 'data' / 'table.npy'"),
        ("data/deep/table.bin", "TABLE = Path(__file__).parent / 'data/deep/table.bin'"),
        ("worker.py", "SCRIPT = Path(__file__).parent / 'worker.py'"),
    ],
)
def test_a_file_that_a_module_names_is_a_part_of_it(tmp_path: Path, load: Load, file: str, line: str) -> None:
    write(tmp_path, {"mine": f"from pathlib import Path\n{line}\n{REWARD}"})
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("1\n")

    assert changed(load("mine"), tmp_path / file, "2\n")


HERE = "HERE = Path(__file__).parent"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("mine.json", "T = Path(__file__).with_suffix('.json').read_text()"),
        ("data/v1/table.json", f"{HERE}; T = (HERE / 'data' / 'v1' / 'table.json').read_text()"),
        ("../shared.json", f"{HERE}; T = (HERE.parent / 'shared.json').read_text()"),
        ("table-2.txt", f"V = 2; {HERE}; T = (HERE / f'table-{{V}}.txt').read_text()"),
        ("tables/a.txt", f"{HERE}; T = [one.read_text() for one in (HERE / 'tables').glob('*.txt')]"),
        ("s.txt", "import os; T = open(os.path.join(os.path.dirname(__file__), 's' + '.txt')).read()"),
        ("rubric.md", f"{HERE}; T = (HERE / 'rubric.md').read_text()"),
        ("helper.py", "from importlib import import_module as load\nfor name in ('help' + 'er',):\n    T = load(name)"),
    ],
    ids=["suffix", "nested", "above", "f-string", "glob", "joined", "markdown", "import by a computed name"],
)
def test_what_a_module_opens_under_a_computed_name_while_it_is_loaded_is_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load, file: str, line: str
) -> None:
    folder = tmp_path / "plugin"
    monkeypatch.syspath_prepend(str(folder))
    write(folder, {"mine": f"from pathlib import Path\n{line}\n{REWARD}"})
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1\n")
    (folder / "beside.txt").write_text("1\n")

    kind = load("mine")

    assert changed(kind, path, "2\n")
    assert not changed(kind, folder / "beside.txt", "2\n")


def test_modules_that_a_package_finds_by_itself_are_a_part_of_it(tmp_path: Path, load: Load) -> None:
    found = "import importlib, pkgutil\nfor one in pkgutil.iter_modules(__path__):\n"
    found += "    importlib.import_module(f'{__name__}.{one.name}')\n"
    write(tmp_path, {"mine": f"import pkg\n{REWARD}", "pkg/__init__": found, "pkg/inner": "SCALE = 1\n"})

    assert changed(load("mine"), tmp_path / "pkg" / "inner.py", "SCALE = 2\n")


def test_a_text_about_a_plugin_is_no_part_of_it(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"mine": f"ABOUT = 'README.md'\n{REWARD}"})
    (tmp_path / "README.md").write_text("1\n")

    assert not changed(load("mine"), tmp_path / "README.md", "2\n")


def test_a_script_for_another_interpreter_brings_its_neighbours(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"mine": f"SCRIPT = 'worker.py'\n{REWARD}", "worker": "import beside\n", "beside": "SCALE = 1\n"})

    assert changed(load("mine"), tmp_path / "beside.py", "SCALE = 2\n")


def test_where_a_plugin_lies_and_how_it_was_loaded_changes_nothing(tmp_path: Path, load: Load) -> None:
    # given one method's file under two paths, and the same file as a module
    source = (
        "import helper\nfrom grpo_bench import Method, MethodConfig\n"
        "class R(Method[MethodConfig]):\n    name = 'lies-here'\n    def plan(self, iteration, rng, schedule): ...\n"
    )
    write(tmp_path, {"helper": "SCALE = 1\n", "mine": source, "one/mine": source, "two/other": source})

    # when each is loaded
    digests = [sources_of(load("mine")).digest()]
    for path in (tmp_path / "one" / "mine.py", tmp_path / "two" / "other.py"):
        (name,) = load_plugin(str(path))
        digests.append(sources_of(METHODS.get(name)).digest())
        del METHODS._plugins[name]

    assert len(set(digests)) == 1


def test_line_ends_of_a_checkout_change_nothing(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"mine": f"import helper\n{REWARD}", "helper": "A = 1\nB = 2\n"})

    assert not changed(load("mine"), tmp_path / "helper.py", "A = 1\r\nB = 2\r\n")


def installed(site: Path, name: str, version: str, package: str, text: str) -> None:
    """A distribution with one package, as pip lays it."""
    (site / package).mkdir(parents=True, exist_ok=True)
    (site / package / "__init__.py").write_text(text)
    for old in site.glob(f"{package}-*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{package}/__init__.py,,\n{info.name}/METADATA,,\n")


def test_an_installed_library_stands_for_itself_by_name_and_version(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a plugin beside the installed library that it imports
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    installed(site, "some-library", "1.2+cu128", "some_library", "X = 1\n")
    write(tmp_path, {"mine": f"import numpy, some_library.part\n{REWARD}"})
    (site / "some_library" / "part.py").write_text("")
    kind = load("mine")

    found = sources_of(kind)

    # then its version is named, without the build's tag, and its files are not read
    assert found.libraries.keys() == {"numpy", "some-library"} and found.libraries["some-library"] == "1.2"
    assert list(found.modules) == ["mine"]
    assert not changed(kind, site / "some_library" / "__init__.py", "X = 2\n")


def test_a_plugins_own_distribution_is_read_although_it_is_installed(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    installed(site, "my-rewards", "0.1", "my_rewards", f"from my_rewards.helper import X\n{REWARD}")
    (site / "my_rewards" / "helper.py").write_text("X = 1\n")

    assert changed(load("my_rewards"), site / "my_rewards" / "helper.py", "X = 2\n")


def test_an_archive_of_modules_is_read_whole(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "helpers.zip"

    def pack(text: str) -> bytes:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("packed_helper.py", text)
        return archive.read_bytes()

    pack("SCALE = 1\n")
    monkeypatch.syspath_prepend(str(archive))
    write(tmp_path, {"mine": f"import packed_helper\n{REWARD}"})
    before = sources_of(load("mine")).digest()
    pack("SCALE = 2\n")

    assert sources_of(load("mine")).digest() != before


def test_a_class_in_no_file_is_refused() -> None:
    kind = type("Typed", (), {"__module__": "typed_at_a_prompt"})

    with pytest.raises(UserError, match="Typed is defined in no file"):
        sources_of(kind)


def test_a_derived_plugin_covers_what_it_is_derived_from() -> None:
    def modules(sources: Sources) -> set[str]:
        return {name.rpartition(".")[2] for name in sources.modules}

    assert {"guard", "flat"} <= modules(sources_of(METHODS.get("guard")))
    assert {"branch_mix", "branch", "mix"} <= modules(sources_of(METHODS.get("branch-mix")))
    assert {"pickscore", "clip"} <= modules(sources_of(REWARDS.get("pickscore")))


def test_shipped_plugins_bring_their_own_files_and_the_engine_stands_for_itself() -> None:
    # what judges the built-in workload is the workload's; the pipeline that draws it is the engine's
    assert "grpo_bench.workloads.shapes.judge" in sources_of(REWARDS.get("shapes")).modules
    assert "grpo_bench.workloads.shapes.scenes" in sources_of(WORKLOADS.get("shapes")).modules
    assert "official/hps.py" in {name.partition(":")[2] for name in sources_of(REWARDS.get("hps")).files}
    assert [
        is_engine(f"grpo_bench.{name}") for name in ("policies.base", "policies.sd3", "workloads.shapes.judge")
    ] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "importing",
    [
        "import importlib\n\ndef __getattr__(name):\n    return importlib.import_module(f'pkg.deep._{name}')\n",
        "from importlib import import_module\n\ndef find(n):\n    return import_module('.deep._' + n, __name__)\n",
        "import pkgutil\n\nALL = [one.name for one in pkgutil.walk_packages(__path__)]\n",
    ],
)
def test_a_package_that_computes_what_it_imports_may_import_any_module_of_it(
    tmp_path: Path, load: Load, importing: str
) -> None:
    files = {
        "pkg/__init__": importing,
        "pkg/own": "import pkg\n" + REWARD,
        "pkg/deep/__init__": "",
        "pkg/deep/_far": "",
    }
    write(tmp_path, files | {"beside": "OTHER = 1\n"})
    kind = load("pkg.own")

    assert changed(kind, tmp_path / "pkg" / "deep" / "_far.py", "K = -1.0\n")
    assert not changed(kind, tmp_path / "beside.py", "OTHER = 2\n")


def test_a_file_that_is_written_on_import_is_no_part_of_the_source(tmp_path: Path, load: Load) -> None:
    write(tmp_path, {"noting": "from pathlib import Path\nPath(__file__ + '.no' + 'te').write_text('x')\n" + REWARD})
    kind = load("noting")

    assert not changed(kind, tmp_path / "noting.py.note", "another\n")
