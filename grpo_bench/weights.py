"""What is said of weights that are not the model's: one wording for policies and rewards, without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Shape = tuple[int, ...]

PREFIXES = {
    "module.": "torch's DataParallel",
    "_orig_mod.": "torch.compile",
    "base_model.model.": "peft",
}
"""What wrappers are known to leave before the names of a model's weights, and whose it is."""


def misfit(
    missing: Collection[str], extra: Collection[str], shapes: Mapping[str, tuple[Shape, Shape]] | None = None
) -> str:
    """A clause on how weights differ from the wanted ones, as `lacks a and 2 more weights`; empty if they do not.

    `shapes` holds, by name, the shape of the file and the model's own.
    """
    parts = [f"lacks {_some(missing)}"] if missing else []
    parts += [f"has {_some(extra)} too many"] if extra else []
    for name, (found, wanted) in sorted((shapes or {}).items())[:1]:
        parts.append(f"has {name} in the shape {found} instead of {wanted}{_more(len(shapes or ()))}")
    return ", and ".join(parts) + _wrapped(extra)


def common_prefix(names: Collection[str]) -> str:
    """The prefixes of wrappers that all the names share, outermost first; empty if there is none."""
    found = ""
    while names:
        inner = next((p for p in PREFIXES if all(name.startswith(found + p) for name in names)), None)
        if inner is None:
            break
        found += inner
    return found


def _wrapped(extra: Collection[str]) -> str:
    prefix = common_prefix(extra)
    if not prefix:
        return ""
    whose = " and ".join(name for part, name in PREFIXES.items() if part in prefix)
    return f" (their names begin with {prefix!r}, which {whose} leaves: save the model itself, not its wrapper)"


def _some(names: Collection[str]) -> str:
    return f"{min(names)}{_more(len(names))}"


def _more(count: int) -> str:
    return f" and {count - 1} more weights" if count > 1 else ""
