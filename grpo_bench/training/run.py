"""One run, from a config to a stored result: its id, its folder, its end, and its resume."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from grpo_bench.config import RewardSection, RunConfig, validated
from grpo_bench.errors import Diverged, PluginFailed, UserError, out_of_memory
from grpo_bench.evaluation.combination import combination
from grpo_bench.evaluation.evaluator import ByPrompt, Evaluation
from grpo_bench.guard import interrupted_in
from grpo_bench.identity import Base, base_hashes, check_unchanged, find_base, outcome_hashes, placed, run_id
from grpo_bench.metering.environment import environment
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.atomic import saving
from grpo_bench.store.names import parse_toml
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore, point_name
from grpo_bench.training import checkpoint
from grpo_bench.training.determinism import deterministic
from grpo_bench.training.loop import Nobody, Observer, Recorder, Trainer
from grpo_bench.training.planning import check_plan, make_method
from grpo_bench.training.ranks import Ranks, joined
from grpo_bench.training.session import Session, judges, open_session, pick_device, splits
from grpo_bench.versions import NUMERICS_VERSION, RULES_VERSION

log = logging.getLogger(__name__)

ENDED: tuple[Status, ...] = ("done", "diverged")
"""A run with one of these has its result; the others go on where they stopped."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `fresh` is False when a stored result was found instead of run."""

    store: RunStore
    record: RunRecord
    fresh: bool


@dataclass(frozen=True)
class Identity:
    """What a config comes to before anything runs."""

    config: RunConfig
    """With the method's own settings written out; this is what config.toml holds."""
    hashes: dict[str, str]
    run: str
    """The run's id."""


Ingredients = tuple[Base, dict[str, str]]
"""A config's model, and the hashes of all that is not settings."""


def identify(config: RunConfig, known: MutableMapping[str, Ingredients] | None = None) -> Identity:
    """The run that a config names, after the checks that need no model.

    `known` keeps models and hashes between calls, for many configs whose differences (seeds, budget, optimiser,
    evaluation) change neither prompts nor weights.

    Raises:
        UserError: anything in the config that does not fit.
    """
    method = make_method(config)
    config = config.model_copy(
        update={
            "method": _resolved(config, method.config.model_dump(exclude_none=True)),
            "device": pick_device("auto").type if config.device == "auto" else config.device,
        }
    )
    check_plan(config, method)  # before a model is fetched for a run that cannot be
    base, hashes = _ingredients(config, {} if known is None else known)
    config = placed(config, base)
    return Identity(config, hashes, run_id(config, hashes))


def start(
    config: RunConfig,
    results: Path,
    observer: Observer,
    *,
    again: bool = False,
    timed: bool = True,
    command: Sequence[str] = (),
) -> Outcome:
    """Run `config`, or find its stored result (done or diverged); an unfinished run of the same id is resumed.

    `timed` False: the run shares its device or cores with another, and its seconds are used for nothing.

    Raises:
        UserError: anything in the config that does not fit, before a folder is made.
    """
    known: dict[str, Ingredients] = {}
    identity, ranks, made = identify(config, known), joined(), False
    with ranks.together():
        if ranks.first:
            made = _prepared(identity, results, known, command, again=again)
    store = RunStore.open(identity.run, results)
    try:
        return _go_on(store, observer, timed, ranks)
    except UserError:
        # What does not fit may show only when the model or a reward is loaded; no empty run stays behind for it.
        if made and not store.rows():
            store.discard()
        raise


def _prepared(
    identity: Identity,
    results: Path,
    known: MutableMapping[str, Ingredients],
    command: Sequence[str],
    *,
    again: bool,
) -> bool:
    """See to it that the run has its folder; True where it was not there, or was thrown away."""
    config, hashes, run = identity.config, identity.hashes, identity.run
    folder = results / run
    if folder.exists() and again:
        RunStore(folder).discard()
    if folder.exists():
        # The id holds the hashes that `resume` would take again, which reads all of the model's weights.
        _check_own(RunStore.open(run, results), run, known)
        return False
    workload = WORKLOADS.get(config.workload)
    record = RunRecord(
        run=run,
        method=config.method.name,
        recipe=config.recipe or None,
        reward=config.reward.name,
        workload=config.workload,
        seed=config.seed,
        protocol=config.protocol,
        tier="real" if config.model.path else workload.tier,
        gold_is_proxy=workload.gold in ("", config.reward.name),
        rules_version=RULES_VERSION,
        numerics_version=NUMERICS_VERSION,
        command=tuple(word.encode(errors="backslashreplace").decode() for word in command),  # a path may be no text
        device=config.device,
        hashes=hashes,
        started=datetime.now(UTC),
    )
    RunStore.create(results, run, config.to_toml(), record)
    return True


def _check_own(store: RunStore, run: str, known: MutableMapping[str, Ingredients]) -> None:
    """A folder's name is no proof: its record and its settings must be those that give the run its id.

    Raises:
        UserError: they are another run's, or were changed.
    """
    if store.record.run != run:
        raise UserError(f"{store.folder} holds another run, {store.record.run}; move it away, or give --again")
    config = stored_config(store)
    try:
        own = identify(config, known).run
    except UserError:  # what it names has moved since, a model's folder perhaps: nothing can be compared
        return
    if own != run:
        raise UserError(
            f"{store.folder}/config.toml was changed since the run was made, and would now be {own}; restore it, or "
            "give --again"
        )


def resume(store: RunStore, observer: Observer, *, timed: bool = True) -> Outcome:
    """Go on from the latest checkpoint; an ended run is returned as it is, a damaged points file mended.

    A diverged run has ended: its noise and its numbers are fixed, so that it would diverge again.

    Raises:
        UserError: the method, workload or weights have changed since, so that it would be another run.
    """
    if store.record.status not in ENDED:
        config = stored_config(store)
        check_unchanged(store.record, _hashes(config, find_base(config)), "resumed")
        _check_own(store, store.record.run, {})
    return _go_on(store, observer, timed, joined())


def _go_on(store: RunStore, observer: Observer, timed: bool, ranks: Ranks) -> Outcome:
    """The first rank writes the folder and talks to people; the others only compute."""
    if store.record.status in ENDED:
        if ranks.first:
            _mend(store)
        return Outcome(store, store.record, fresh=False)
    if ranks.first:
        return _execute(store, observer, timed, ranks)
    _train(store, stored_config(store), Nobody(), ranks)
    return Outcome(store, store.record, fresh=True)


def _mend(store: RunStore) -> None:
    """Rebuild points that are damaged or deleted from the last checkpoint, which a finished run has behind its last."""
    try:
        whole = bool(store.rows()) or store.record.status != "done"
    except UserError:
        whole = False
    if not whole:
        with store.lock():
            store.rewind()


def check_base(record: RunRecord, config: RunConfig) -> None:
    """Whoever draws from a stored run's model draws from the one it was made with.

    Raises:
        UserError: the model has moved, its files have changed, or the code that reads them has.
    """
    check_unchanged(record, base_hashes(config, find_base(config)), "sampled from")


def stored_config(store: RunStore) -> RunConfig:
    """The resolved config of a stored run.

    Raises:
        UserError: missing or damaged.
    """
    try:
        table = parse_toml(store.config_toml())
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{store.folder}/config.toml is damaged ({error}); start the run anew") from error
    return validated(RunConfig, table)


def _execute(store: RunStore, observer: Observer, timed: bool, ranks: Ranks) -> Outcome:
    with store.lock(), _logged(store.run_log):
        observer.started(store.record.run, store.folder)
        config = stored_config(store)
        # Untimed once is untimed for good: the seconds of all its points are one sum.
        timed = timed and store.record.timed
        store.save_record(store.record.model_copy(update={"status": "running", "reason": "", "timed": timed}))
        try:
            finished = _train(store, config, observer, ranks)
            status: Status = "done" if finished else "interrupted"
            reason = "" if finished else "stopped on request"
        except Diverged as error:
            status, reason = "diverged", str(error)
        except PluginFailed as error:
            log.info("the plugin's traceback", exc_info=error)
            status, reason = "failed", str(error)
        except KeyboardInterrupt as error:
            which = "a second interrupt" if observer.should_stop() else "an interrupt"
            status, reason = "interrupted", f"stopped by {which}{interrupted_in(error)}"
        except BaseException as error:
            log.info("the traceback", exc_info=error)
            if out_of_memory(error):
                reason = f"out of memory ({_one_line(error)}); lower the batches of [training]"
                return Outcome(store, _finish(store, "failed", reason), fresh=True)
            with suppress(UserError):  # a full disk refuses the record too; the first error is the one to tell
                _finish(store, "failed", _one_line(error))
            raise
        return Outcome(store, _finish(store, status, reason), fresh=True)


def _train(store: RunStore, config: RunConfig, observer: Observer, ranks: Ranks) -> bool:
    deterministic()
    with ranks.together():
        session = open_session(config, ranks)
        if ranks.first:
            store.save_record(store.record.model_copy(update={"versions": environment()}))
            point = store.rewind()
    log.info("clip %.3g, %d trained tensors", session.objective.clip, len(session.policy.parameters()))
    if not ranks.first:  # the first has looked for it, which reads all of it
        point = store.checkpoints.latest()
    if point is not None:
        checkpoint.load(point.path, session)
        log.info("resumed after iteration %d", session.ledger.iterations)
    recorder: Recorder = _StoreRecorder(store, config.reward) if ranks.first else Nobody()
    return Trainer(session, recorder, observer).run()


class _StoreRecorder:
    """Writes points, images and checkpoints into a run's folder."""

    def __init__(self, store: RunStore, reward: RewardSection) -> None:
        self._store, self._reward = store, reward

    def point(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Images first: a stored point always has its images."""
        images = evaluation.images
        name = point_name(int(row["iteration"]))
        self._store.save_images(name, images.reshape(-1, *images.shape[2:]), images.shape[1])
        rows = self._store.rows()
        self._store.add_prompt_scores(int(row["iteration"]), 0, evaluation.by_prompt)
        self._store.append_point(row | combination(rows[0] if rows else row, row, self._reward))

    def by_prompt(self, iteration: int, noise: int, scores: ByPrompt) -> None:
        """Prompt scores of a stored point under another noise."""
        self._store.add_prompt_scores(iteration, noise, scores)

    def checkpoint(self, session: Session) -> None:
        """Everything a resume needs."""
        self._store.save_prompts(session.evaluator.prompts)
        self._store.save_checkpoint(session.ledger.iterations, lambda folder: checkpoint.save(folder, session))


def _finish(store: RunStore, status: Status, reason: str) -> RunRecord:
    record = store.record.model_copy(update={"status": status, "reason": reason, "finished": datetime.now(UTC)})
    store.save_record(record)
    return record


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


class _RunLog(logging.FileHandler):
    """A log that a full disk cannot turn into tracebacks on stderr: the store says so, in one sentence."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line."""

    def close(self) -> None:
        """Close, whether or not what is left can be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send the package's log to run.log as well."""
    logger = logging.getLogger("grpo_bench")
    with saving("the log", path):
        handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def _resolved(config: RunConfig, settings: dict[str, object]) -> object:
    return type(config.method)(name=config.method.name, **settings)


def _ingredients(config: RunConfig, known: MutableMapping[str, Ingredients]) -> Ingredients:
    fresh = RunConfig()
    evaluation = fresh.evaluation.model_copy(update={"split": config.evaluation.split})
    same = {"seed": 0, "budget": fresh.budget, "training": fresh.training, "evaluation": evaluation}
    key = config.model_copy(update=same).to_toml()
    if key not in known:
        base = find_base(config)
        known[key] = base, _hashes(config, base)
    return known[key]


def _hashes(config: RunConfig, base: Base) -> dict[str, str]:
    return outcome_hashes(config, base, splits(config), judges(config))
