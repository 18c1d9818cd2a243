"""What the facts mean: what is well, what is limited, what cannot work, and the one command that mends it.

Each function here, in `software` and in `machine` looks at one thing and touches nothing. `fail` is for what cannot
work, `warn` for what works with a limit.
"""

from __future__ import annotations

import shlex

from grpo_bench.doctor import machine, software
from grpo_bench.doctor.facts import GB, Facts, Finding, Plugin, pip, shown
from grpo_bench.doctor.software import breaks_transformers


def diagnose(facts: Facts) -> list[Finding]:
    """Every finding, by section."""
    looks = (
        software.python, software.packages, software.torchvision, software.protobuf, software.metadata,
        machine.device, machine.threads, machine.disk, machine.hub, machine.token,
        rewards, environments, plugins,
    )  # fmt: skip
    return [finding for look in looks for finding in look(facts)]


def rewards(facts: Facts) -> list[Finding]:
    """Which rewards have their weights here, and which could fetch them."""
    kinds = [plugin for plugin in facts.plugins if plugin.group == "grpo_bench.rewards" and not plugin.error]
    free = [plugin.name for plugin in kinds if not plugin.weights]
    found = [Finding("rewards", "ok", "no weights", ", ".join(free))] if free else []
    learned = [plugin for plugin in kinds if plugin.weights]
    return [*found, *_no_cache(facts, learned), *(_weights(facts, plugin) for plugin in learned)]


def _no_cache(facts: Facts, learned: list[Plugin]) -> list[Finding]:
    """What a missing cache of the hub means."""
    names = ", ".join(plugin.name for plugin in learned)
    if facts.hub.cached or not names:
        return []
    said = f"{shown(facts.hub.cache)} is not there, so that the weights of {names} are on this machine nowhere"
    if facts.hub.reachable:
        return [Finding("rewards", "ok", "cache", f"{said}; it is made when the first of them is used")]
    mend = "export HF_HOME=FOLDER   (a cache that was filled where there is a network)"
    return [Finding("rewards", "warn", "cache", said, mend)]


def _weights(facts: Facts, plugin: Plugin) -> Finding:
    missing = [one for one in plugin.weights if not one.cached]
    terms = "" if plugin.commercial is not False else f"; not for commercial use ({plugin.licence})"
    if not missing:
        return Finding(
            "rewards", "ok", plugin.name, f"cached, {_bytes(sum(one.size for one in plugin.weights))}{terms}"
        )
    largest = max(missing, key=lambda one: one.size)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    partly = "only partly cached, without" if len(missing) < len(plugin.weights) else "not cached:"
    said = f"{partly} {largest.file}{f' ({_bytes(largest.size)})' if largest.size else ''}{more}"
    if facts.hub.reachable:
        return Finding("rewards", "ok", plugin.name, f"{said}; fetched when first used{terms}")
    files: dict[str, list[str]] = {}
    for one in missing:
        files.setdefault(one.repo, []).append(shlex.quote(one.file))
    mend = " && ".join(f"hf download {repo} {' '.join(names)}" for repo, names in files.items())
    return Finding("rewards", "warn", plugin.name, f"{said}; it cannot be used before that is fetched{terms}", mend)


def _bytes(size: int) -> str:
    return f"{size / GB:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def environments(facts: Facts) -> list[Finding]:
    """The isolated environments of rewards' official backends."""
    found = []
    for plugin in facts.plugins:
        if not plugin.environment:
            continue
        subject, install = f"{plugin.name}, official", f"grpo-bench rewards install {plugin.name}"
        if plugin.environment == "installed":
            found.append(Finding("rewards", "ok", subject, "its environment is installed"))
        elif plugin.environment == "not installed":
            said = f"its environment is not installed; only reward.{plugin.name}.backend=official needs it: {install}"
            found.append(Finding("rewards", "ok", subject, said))
        else:
            found.append(Finding("rewards", "warn", subject, f"its environment is {plugin.environment}", install))
    return found


def plugins(facts: Facts) -> list[Finding]:
    """Entry points that cannot be loaded, or that two packages claim."""
    found, owners = [], dict[tuple[str, str], str]()
    for plugin in facts.plugins:
        key = plugin.group, plugin.name
        other = owners.setdefault(key, plugin.origin)
        if other != plugin.origin:
            said = f"the {plugin.kind} is registered by both {other} and {plugin.origin}, so that neither can be used"
            mend = pip(facts, f"uninstall -y {shlex.quote(plugin.origin)}")
            found.append(Finding("plugins", "fail", plugin.name, said, mend))
        elif plugin.error:
            found.append(_broken(facts, plugin))
    count = len(facts.plugins) - sum(bool(plugin.error) for plugin in facts.plugins)
    others = sorted({plugin.origin for plugin in facts.plugins} - {"grpo-bench"})
    said = f"{count} methods, rewards, workloads and policies load" + (
        f"; also from {', '.join(others)}" if others else ""
    )
    return [Finding("plugins", "ok", "entry points", said), *found] if count else found


def _broken(facts: Facts, plugin: Plugin) -> Finding:
    if breaks_transformers(facts) and "torchvision" in plugin.error:
        return Finding("plugins", "fail", plugin.name, f"the {plugin.kind} needs a torchvision that works, see above")
    if plugin.origin == "grpo-bench":
        mend = pip(facts, "install -e .")
    else:
        mend = pip(facts, f"install --force-reinstall {shlex.quote(plugin.origin)}")
    said = f"the {plugin.kind} from {plugin.origin} cannot be loaded: {plugin.error}"
    return Finding("plugins", "fail", plugin.name, said, mend)
