"""One run, from a config to a stored result: its id, its folder, its end, and its resume."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from grpo_bench.config import RunConfig, validated
from grpo_bench.errors import Diverged, PluginFailed, UserError, out_of_memory
from grpo_bench.guard import interrupted_in
from grpo_bench.identity import base_hashes, check_unchanged, find_base
from grpo_bench.metering.environment import environment
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.atomic import saving
from grpo_bench.store.names import parse_toml
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore
from grpo_bench.training import checkpoint
from grpo_bench.training.determinism import deterministic
from grpo_bench.training.loop import Nobody, Observer, Recorder, Trainer
from grpo_bench.training.prepare import Ingredients, Prepared, identify, ingredients
from grpo_bench.training.ranks import Ranks, joined
from grpo_bench.training.recorder import StoreRecorder
from grpo_bench.training.session import open_session
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
    prepared, ranks, made = identify(config, known), joined(), False
    with ranks.together():
        if ranks.first:
            made = _see_to_folder(prepared, results, known, command, again=again)
    store = RunStore.open(prepared.run, results)
    try:
        return _go_on(store, prepared, observer, timed, ranks)
    except UserError:
        # What does not fit may show only when the model or a reward is loaded; no empty run stays behind for it.
        if made and not store.rows():
            store.discard()
        raise


def _see_to_folder(
    prepared: Prepared,
    results: Path,
    known: MutableMapping[str, Ingredients],
    command: Sequence[str],
    *,
    again: bool,
) -> bool:
    """See to it that the run has its folder; True where it was not there, or was thrown away."""
    config, run = prepared.config, prepared.run
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
        hashes=prepared.hashes,
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
    if store.record.status in ENDED:
        return _ended(store)
    known: dict[str, Ingredients] = {}
    config = stored_config(store)
    check_unchanged(store.record, ingredients(config, known).hashes, "resumed")
    _check_own(store, store.record.run, known)
    return _go_on(store, identify(config, known), observer, timed, joined())


def _go_on(store: RunStore, prepared: Prepared, observer: Observer, timed: bool, ranks: Ranks) -> Outcome:
    """The first rank writes the folder and talks to people; the others only compute."""
    if store.record.status in ENDED:
        return _ended(store) if ranks.first else Outcome(store, store.record, fresh=False)
    if ranks.first:
        return _execute(store, prepared, observer, timed, ranks)
    _train(store, prepared, Nobody(), ranks)
    return Outcome(store, store.record, fresh=True)


def _ended(store: RunStore) -> Outcome:
    _mend(store)
    return Outcome(store, store.record, fresh=False)


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


def _execute(store: RunStore, prepared: Prepared, observer: Observer, timed: bool, ranks: Ranks) -> Outcome:
    with store.lock(), _logged(store.run_log):
        observer.started(store.record.run, store.folder)
        # Untimed once is untimed for good: the seconds of all its points are one sum.
        timed = timed and store.record.timed
        store.save_record(store.record.model_copy(update={"status": "running", "reason": "", "timed": timed}))
        try:
            finished = _train(store, prepared, observer, ranks)
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


def _train(store: RunStore, prepared: Prepared, observer: Observer, ranks: Ranks) -> bool:
    deterministic()
    with ranks.together():
        session = open_session(prepared, ranks)
        if ranks.first:
            store.save_record(store.record.model_copy(update={"versions": environment()}))
            point = store.rewind()
    log.info("clip %.3g, %d trained tensors", session.objective.clip, len(session.policy.parameters()))
    if not ranks.first:  # the first has looked for it, which reads all of it
        point = store.checkpoints.latest()
    if point is not None:
        checkpoint.load(point.path, session)
        log.info("resumed after iteration %d", session.ledger.iterations)
    recorder: Recorder = StoreRecorder(store, prepared.config.reward) if ranks.first else Nobody()
    return Trainer(session, recorder, observer).run()


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
