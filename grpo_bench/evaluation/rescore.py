"""`grpo-bench score`: held-out rewards judge the images that a run stored, long after it and in another process.

The training process has no way to name such a reward, so nothing it does can depend on one (RULES.md, "Evaluation").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from grpo_bench.config import RewardSection, RunConfig
from grpo_bench.errors import Diverged, UserError
from grpo_bench.evaluation.evaluator import to_images
from grpo_bench.evaluation.scoring import check_media, make_rewards, score_parts
from grpo_bench.guard import calling
from grpo_bench.media import kind_of
from grpo_bench.metering.environment import environment
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.rewarding.weights import fingerprints
from grpo_bench.sources import sources_of
from grpo_bench.store.images import pixels_digest, stored_digest, stored_fps
from grpo_bench.store.run import SCORES, RunStore, point_name
from grpo_bench.store.scores import PREFIX, ScorePass, Scores
from grpo_bench.versions import NUMERICS_VERSION, RULES_VERSION

if TYPE_CHECKING:
    from pydantic import JsonValue

    from grpo_bench.evaluation.diversity import Images

INDIFFERENT = {"batch", "path"}
"""Settings that say how a reward is computed, not what: the weights' sha256 stands for their path."""


@dataclass(frozen=True)
class Rescored:
    """What became of one reward: the columns it has now, the points scored by this command, and why if there are none.

    `columns` may lie under `reward/`, where the run has scored it by itself.
    """

    reward: str
    columns: tuple[str, ...]
    added: int
    kept: str


@dataclass(frozen=True)
class Report:
    """A whole command: its rewards, and what was there to be scored."""

    rewards: tuple[Rescored, ...]
    points: int
    prompts: int
    images: int
    """A point, of all prompts."""
    seconds: float


def score_section(rewards: str, tables: Mapping[str, object]) -> tuple[list[str], RewardSection]:
    """`--reward a,b` and the `[reward.NAME]` tables of `--set` as names and their settings.

    Raises:
        UserError: no name, a weight, or another setting than a reward's own.
    """
    names = list(dict.fromkeys(name.strip() for name in rewards.split(",")))
    for name in names:
        if not name or ":" in name:
            raise UserError(f"score takes --reward NAME,NAME without weights, not {rewards!r}")
    own = tables.get("reward", {})
    if set(tables) - {"reward"} or not isinstance(own, dict) or any(not isinstance(own[key], dict) for key in own):
        raise UserError("score takes --set reward.NAME.KEY=VALUE only: a stored run's own settings are fixed")
    return names, RewardSection.model_validate({**own, "name": ",".join(names)})


def rescore(
    store: RunStore,
    config: RunConfig,
    names: Sequence[str],
    section: RewardSection,
    device: torch.device,
    observe: Callable[[str], None] = lambda text: None,
) -> Report:
    """Score every point's images with each reward that has no column yet, and store each point as soon as it is scored.

    A column that exists is kept; one that was interrupted is completed, by the same reward with the same settings only.

    Raises:
        UserError: a reward that the run trained on, an unknown or failing one, one whose column exists with other
            settings, a run without points, damaged images, or a run that is being written.
        PluginFailed: a reward raised something, or its own process died.
    """
    started = perf_counter()
    for name in names:
        if name in config.reward.weights:
            raise UserError(
                f"{store.folder.name} trained on {name!r}, so that it is not held out: its scores are the points' "
                f"column reward/{name}; score another reward"
            )
    rewards = make_rewards(names, section)
    with store.lock():
        rows = store.rows()
        if not rows:
            raise UserError(f"{store.folder.name} has no point yet whose images could be scored; let it run first")
        job = _Job(store, [int(row["iteration"] or 0) for row in rows], device, observe)
        check_media(job.media, f"{store.folder.name} holds", rewards)
        by_run = {column for row in rows for column in row}
        later = [name for name in names if f"reward/{name}" not in by_run]
        passes = {name: job.plan(rewards[name]) for name in later}  # refuse any of them before scoring one
        found = [job.score(rewards[name], passes[name]) if name in passes else _by_run(name) for name in names]
        return Report(tuple(found), len(rows), len(job.prompts), job.images, perf_counter() - started)


def _by_run(name: str) -> Rescored:
    return Rescored(name, (f"reward/{name}",), 0, "the run itself scored it at every point")


class _Job:
    """The points of one locked run."""

    def __init__(
        self, store: RunStore, iterations: Sequence[int], device: torch.device, observe: Callable[[str], None]
    ) -> None:
        self._store, self._device, self._observe, self._versions = store, device, observe, environment()
        self.prompts = store.load_prompts()
        self._keys = [(iteration, self._digest(iteration)) for iteration in iterations]
        first = self._load(iterations[0])
        self.images, self.media = len(first), kind_of(first)
        self._fps = stored_fps(store.images / point_name(iterations[0]))

    def plan(self, reward: Reward[RewardConfig]) -> ScorePass | None:
        """The pass that would fill the reward's column, without points yet; None where the column is complete.

        Raises:
            UserError: the column exists with other settings, weights or source; or the weights cannot be had.
        """
        scores = self._store.scores()
        old = scores.origin(f"{PREFIX}{reward.name}")
        settings = reward.config.model_dump(mode="json")
        if old is not None and old.reward != reward.name:
            return None
        self._refuse(reward.name, _changed_setting(old, settings))
        source = sources_of(type(reward), settings=reward.config).digest()
        self._refuse(reward.name, "another source of the plugin" if old is not None and old.source != source else "")
        if all(f"{PREFIX}{reward.name}" in scores.values.get(key, {}) for key in self._keys):
            return None
        weights = fingerprints(reward)
        self._refuse(reward.name, "other weights" if old is not None and old.weights != weights else "")
        return ScorePass(
            reward=reward.name,
            columns=(),
            settings=settings,
            weights=weights,
            source=source,
            versions=self._versions,
            device=self._device.type,
            rules_version=RULES_VERSION,
            numerics_version=NUMERICS_VERSION,
            scored=datetime.now(UTC),
            prompts=len(self.prompts),
            images=self.images,
            iterations=(),
        )

    def score(self, reward: Reward[RewardConfig], by: ScorePass | None) -> Rescored:
        """Fill the reward's column at the points that lack it, and its components' unless another filled them."""
        column, scores, added = f"{PREFIX}{reward.name}", self._store.scores(), 0
        old = scores.origin(column)
        if by is None or (old is not None and old.reward != reward.name):
            return _kept(reward.name, scores)
        foreign = {name for one in scores.passes if one.reward != reward.name for name in one.columns}
        with calling(f"reward {reward.name!r}"):
            reward.load(self._device)
        reward.fps = self._fps
        for place, key in enumerate(self._keys, 1):
            if column in scores.values.get(key, {}):
                continue
            self._observe(f"{reward.name}: point {place} of {len(self._keys)}")
            means = {f"{PREFIX}{name}": value for name, value in self._means(reward, self._load(key[0])).items()}
            own = {name: value for name, value in means.items() if name not in foreign}
            scores, added = scores.extended(key, own, by), added + 1
            self._store.save_scores(scores)
        return Rescored(reward.name, _columns(scores, reward.name), added, "")

    def _refuse(self, name: str, difference: str) -> None:
        if difference:
            raise UserError(
                f"{PREFIX}{name} exists in {self._store.folder.name} with {difference}, and a column is never "
                f"overwritten: score with what it has, or delete {self._store.folder / SCORES} to score all anew"
            )

    def _digest(self, iteration: int) -> str:
        """Of the point's stored images; raises UserError when they are missing."""
        return stored_digest(self._store.images / point_name(iteration)) or pixels_digest(self._load(iteration))

    def _load(self, iteration: int) -> Images:
        images = self._store.load_images(point_name(iteration))
        if not self.prompts or len(images) % len(self.prompts):
            raise UserError(
                f"{self._store.images} is damaged: {len(images)} images for {len(self.prompts)} prompts; start the run "
                "anew"
            )
        return images

    def _means(self, reward: Reward[RewardConfig], images: Images) -> dict[str, float]:
        """The mean score over a point's images, by name; images reach the device a batch at a time."""
        each = len(images) // len(self.prompts)
        prompts = [prompt for prompt in self.prompts for _ in range(each)]
        sums: dict[str, float] = {}
        try:
            for start in range(0, len(images), reward.config.batch):
                part = slice(start, start + reward.config.batch)
                judged = score_parts(reward, to_images(images[part], self._device), prompts[part])
                for name, values in judged.items():
                    sums[name] = sums.get(name, 0.0) + float(values.sum())
        except Diverged as error:
            raise UserError(f"{error}, which is no score; what was scored before is stored") from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"reward {reward.name!r} needs more memory than there is for {reward.config.batch} images at once; "
                f"lower it with --set reward.{reward.name}.batch=N"
            ) from error
        return {name: total / len(images) for name, total in sums.items()}


def _kept(name: str, scores: Scores) -> Rescored:
    old = scores.origin(f"{PREFIX}{name}")
    if old is not None and old.reward != name:
        return Rescored(name, (f"{PREFIX}{name}",), 0, f"the column exists, as a part of {old.reward}")
    return Rescored(name, _columns(scores, name), 0, "the column exists, and is kept")


def _columns(scores: Scores, reward: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in scores.passes if one.reward == reward for name in one.columns))


def _changed_setting(old: ScorePass | None, settings: Mapping[str, JsonValue]) -> str:
    """The first setting in which two passes of one reward would give other numbers, as a clause; empty if none.

    What every reward has to set, and had not yet when the old pass was made, had its default.
    """
    if old is None:
        return ""
    then = {**RewardConfig().model_dump(mode="json"), **old.settings}
    for key in {**then, **settings}:
        if key not in INDIFFERENT and then.get(key) != settings.get(key):
            return f"{key} = {then.get(key)!r}, not {settings.get(key)!r}"
    return ""
