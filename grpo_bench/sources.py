"""The source that a plugin brings with it: its modules, followed through their imports, and the files that they name.

Installed libraries stand for themselves by name and version, the engine by NUMERICS_VERSION; everything else is read.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

from grpo_bench.errors import UserError
from grpo_bench.opened import making, opened_by
from grpo_bench.registry import METHODS, POLICIES, REWARDS, WORKLOADS

ENGINE, DISTRIBUTION = "grpo_bench", "grpo-bench"
ABOUT = ("README", "LICENSE", "CHANGELOG")
"""Files about a plugin, which change nothing that it computes."""
MOST_FOLDERS = 64
IMPORTERS = ("import_module", "__import__", "iter_modules", "walk_packages")
LONGEST_NAME = 255
"""Of a file; a longer text in a module names none."""


@dataclass(frozen=True)
class Sources:
    """What makes a plugin's class, outside the engine."""

    modules: Mapping[str, Path]
    """File by module: the class's own and its bases' first, then what they import."""
    roots: int
    """How many of them are the class's own and its bases'; a digest does not know these by name."""
    files: Mapping[str, Path]
    """Other files, by `module:text`, that a text in one of the modules names: a table beside it, a worker's script."""
    libraries: Mapping[str, str]
    """Version by installed distribution, without build tags (`+cpu`): plans and runs may be made on two machines.

    Of a shipped plugin none: the engine runs on the same ones, and its NUMERICS_VERSION stands for them.
    """

    def digest(self) -> str:
        """sha256 of every file's content; where the plugin lies, and how it was loaded, changes nothing."""
        own = dict(zip(self.modules, map(str, range(self.roots)), strict=False))
        parts = []
        for label, path in {**self.modules, **self.files}.items():
            module, colon, text = label.partition(":")
            parts.append(f"{own.get(module, module)}{colon}{text}\0{_digest(path)}")
        return hashlib.sha256("\n".join(sorted(parts)).encode(errors="surrogateescape")).hexdigest()

    def versions(self) -> str:
        """The libraries in one line: `numpy 2.4.6, torch 2.13.0`."""
        return ", ".join(f"{name} {version}" for name, version in sorted(self.libraries.items()))


def sources_of(kind: type, *, settings: object = None, packages: bool = True) -> Sources:
    """Everything outside the engine that makes `kind`: followed from its module and those of its bases.

    With `settings`, also what an object of theirs has read while it was made.

    Without `packages`, not through the `__init__` of the packages that they lie in, which may import what is no part of
    it: a package's rewards beside its methods.

    Raises:
        UserError: a module of it is in no file, so that no change of it could be seen.
    """
    found = _Search(
        own=frozenset([DISTRIBUTION, *_distributions(kind.__module__)]), made=making(kind, settings), packages=packages
    )
    for module in dict.fromkeys(base.__module__ for base in kind.__mro__):
        found.visit(module, root=True)
    if kind.__module__ not in found.modules and not is_engine(kind.__module__):
        raise UserError(
            f"{kind.__name__} is defined in no file, so that a change of it could not be seen; put it into a .py file"
        )
    roots = len(found.modules)
    found.follow()
    shipped = DISTRIBUTION in _providers(tuple(sys.path)).get(kind.__module__.partition(".")[0], ())
    return Sources(found.modules, roots, found.files, {} if shipped else found.libraries)


class _Search:
    """Collects modules; `own` are the plugin's own distributions, which are read although they are installed."""

    def __init__(self, own: frozenset[str], *, made: str, packages: bool) -> None:
        self._own, self._made, self._packages = own, made, packages
        self.modules: dict[str, Path] = {}
        self.files: dict[str, Path] = {}
        self.libraries: dict[str, str] = {}

    def visit(self, name: str, *, root: bool = False) -> None:
        """Take a module in, or the library that it is a part of; a name that is no module's is passed over."""
        if is_engine(name) or name in self.modules:
            return
        foreign = [each for each in _distributions(name) if each not in self._own]
        if foreign:
            self.libraries.update({each: _version(each, tuple(sys.path)) for each in foreign})
            return
        path = _origin(name)
        if path is None or _is_standard(path) or (path.stem == "__init__" and not (self._packages or root)):
            return
        self.modules[name] = path

    def follow(self) -> None:
        """Visit what the modules import, and what those import, until nothing is new; note the files they name."""
        done: set[str] = set()
        while todo := [name for name in self.modules if name not in done]:
            for name in todo:
                done.add(name)
                path = self.modules[name]
                for imported in _absolute(_scan(path).imports, _package(name, path)):
                    for end in range(imported.count(".") + 1):  # importing a.b.c runs a and a.b too
                        self.visit(".".join(imported.split(".")[: end + 1]))
                self._all_beside(name, path)
                self._name_files(name, path)
                self._opened_files(name, path)

    def _opened_files(self, module: str, path: Path) -> None:
        """What the module opened while it was loaded, under names that it computed: tables, and modules as modules."""
        for file in opened_by(path, self._made):
            if file.suffix == ".py" and (name := _module_of(file)):
                self.visit(name)
            elif file not in self.files.values() and file not in self.modules.values():
                inside = file.is_relative_to(path.parent)  # elsewhere its place is no part of what it holds
                label = f"{module}:{os.path.relpath(file, path.parent) if inside else f'/{file.name}'}"
                self.files[label if label not in self.files else f"{label} {len(self.files)}"] = file

    def _all_beside(self, name: str, path: Path) -> None:
        """A module in a package that imports under names it computes may import any module of that package."""
        package = _package(name, path)
        if package and _scan(path).computed:
            for file in sorted(path.parent.rglob("*.py")):
                inner = file.relative_to(path.parent).with_suffix("").parts
                self.visit(".".join([package, *(inner[:-1] if inner[-1] == "__init__" else inner)]))

    def _name_files(self, module: str, path: Path) -> None:
        for text, file in _named(path):
            self.files[f"{module}:{text}"] = file
            if file.suffix == ".py":  # a script for another interpreter, which finds its neighbours by itself
                for imported in _scan(file).imports:
                    neighbour = file.with_name(f"{imported.partition('.')[0]}.py")
                    if imported[0] != "." and neighbour.is_file():
                        self.files[f"{module}:{text}:{neighbour.name}"] = neighbour


@dataclass(frozen=True)
class _Scan:
    """What Python source says: the names it imports, with leading dots where they are relative, and its short texts."""

    imports: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    computed: bool = False
    """Whether it imports under names that are in no text of it."""


def _digest(path: Path) -> str:
    """sha256 of a file; a checkout's line ends are no content of Python source."""
    with _told(path), path.open("rb") as stream:
        if path.suffix != ".py":
            return hashlib.file_digest(stream, "sha256").hexdigest()
        return hashlib.sha256(stream.read().replace(b"\r\n", b"\n")).hexdigest()


def _scan(path: Path) -> _Scan:
    with _told(path):
        return _scanned(path.read_bytes()) if path.suffix == ".py" else _Scan()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}, a part of a plugin, cannot be read ({error.strerror}); put it back") from error


@lru_cache(maxsize=1024)
def _scanned(source: bytes) -> _Scan:
    try:
        nodes = list(_executed(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return _Scan()
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    short = (text for text in texts if 0 < len(text.encode(errors="replace")) <= LONGEST_NAME and "\0" not in text)
    imports = dict.fromkeys(name for node in nodes for name in _imported(node))
    return _Scan(tuple(imports), tuple(dict.fromkeys(short)), any(map(_imports_computed, nodes)))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`, which change no outcome."""
    queue = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            queue += node.orelse
            continue
        yield node
        queue += ast.iter_child_nodes(node)


def _imported(node: ast.AST) -> Iterator[str]:
    """Names that a node may import, with leading dots where they are relative; some are attributes, not modules."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = "." * level + (module or "")
            yield base
            yield from (f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in names)
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ) if name:
            yield name


def _imports_computed(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=given) if name in IMPORTERS:
            return not given or not isinstance(given[0], ast.Constant)
    return False


def _absolute(names: tuple[str, ...], package: str) -> Iterator[str]:
    for name in names:
        try:
            yield importlib.util.resolve_name(name, package)
        except ImportError:  # relative, and beyond the top: the plugin's own import failed, or never ran
            continue


def _package(name: str, path: Path) -> str:
    return name if path.stem == "__init__" else name.rpartition(".")[0]


def _named(path: Path) -> Iterator[tuple[str, Path]]:
    """Files beside a module that texts in it name, by themselves or inside folders that other texts name.

    A text about them (`README.md`) is no part of what they compute.
    """
    texts = _scan(path).texts
    folders = [""]
    for folder in folders:  # grows: a folder in a folder, `root / "data" / "v1"`
        inner = (f"{folder}/{text}".lstrip("/") for text in texts if text.strip("./") and ".." not in text)
        folders += [one for one in inner if len(folders) < MOST_FOLDERS and one not in folders
                    and _is(Path.is_dir, path.parent / one)]  # fmt: skip
    for folder in folders:
        for text in texts:
            file = path.parent / folder / text
            if _is(Path.is_file, file) and file != path and file.stem.upper() not in ABOUT:
                yield f"{folder}/{text}".lstrip("/") if not Path(text).is_absolute() else file.name, file


def _module_of(file: Path) -> str:
    """The name under which a file was imported; empty where it was not."""
    real = _real(str(file))
    own = ((name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()))
    return next((name for name, path in own if path and _real(path) == real), "")


@cache  # asked of some thousand modules for every file that a plugin opened
def _real(path: str) -> str:
    return os.path.realpath(path)


def _is(question: Callable[[Path], bool], path: Path) -> bool:
    try:
        return question(path)
    except OSError:
        return False


def is_engine(module: str) -> bool:
    """Whether a module is the engine's: in grpo_bench, and neither a shipped plugin's nor in a package of its own."""
    if module.partition(".")[0] != ENGINE:
        return False
    return not any(module == name or module.startswith(f"{name}.") for name in _shipped(tuple(sys.path)))


@cache
def _shipped(path: tuple[str, ...]) -> frozenset[str]:
    """Modules and packages inside the engine that are plugins, such as `grpo_bench.workloads.shapes`."""
    modules = {name for registry in (METHODS, REWARDS, WORKLOADS, POLICIES) for name in registry.modules()}
    packages = {name.rpartition(".")[0] for name in modules}
    return frozenset(modules | {package for package in packages if package.count(".") >= 2})


def _distributions(module: str) -> list[str]:
    """The installed distributions that a module belongs to; none where its files lie elsewhere, as a checkout's do."""
    top = module.partition(".")[0]
    home = _origin(top) or next(map(Path, getattr(sys.modules.get(top), "__path__", ())), None)
    return list(_holding(top, home, tuple(sys.path))) if home is not None else []


@cache
def _holding(top: str, home: Path, path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in _providers(path).get(top, ()) if _holds(name, home))


@cache
def _providers(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    return {top: sorted(set(names)) for top, names in metadata.packages_distributions().items()}


@cache
def _version(distribution: str, path: tuple[str, ...]) -> str:
    return metadata.version(distribution).partition("+")[0]


def _holds(distribution: str, home: Path) -> bool:
    found = metadata.distribution(distribution)
    root = Path(str(found.locate_file(""))).resolve()
    return found.read_text("RECORD") is not None and home.resolve().is_relative_to(root)


def _origin(name: str) -> Path | None:
    """The file of a module; None where there is no such module, or none in a file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # a parent package runs its own code
            return None
        file = spec.origin if spec is not None and spec.has_location else None
    if file is None:
        return None
    path = Path(file)
    return next((part for part in (path, *path.parents) if part.is_file()), path)  # an archive stands for all in it


def _is_standard(path: Path) -> bool:
    inside = any(path.is_relative_to(root) for root in _standard_library())
    return inside and not {"site-packages", "dist-packages"} & set(path.parts)


@cache
def _standard_library() -> tuple[str, ...]:
    return sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")
