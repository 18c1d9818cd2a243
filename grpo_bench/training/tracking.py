"""Optional trackers beside the store: they watch a run as any observer does, and are off unless asked for."""

from __future__ import annotations

from pathlib import Path

from grpo_bench.errors import UserError
from grpo_bench.evaluation.evaluator import Evaluation
from grpo_bench.training.loop import Observer, Progress


class Tensorboard:
    """Writes scalars to the run's `tensorboard` folder, then passes every call on.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, inner: Observer) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--log tensorboard needs an extra; pip install 'grpo-bench[tensorboard]'") from error
        self._inner, self._make = inner, SummaryWriter

    def started(self, run: str, folder: Path) -> None:
        """Open the event file."""
        self._writer = self._make(str(folder / "tensorboard"))
        self._inner.started(run, folder)

    def iteration(self, progress: Progress) -> None:
        """The mean rollout reward, against iterations."""
        self._writer.add_scalar("rollout/reward", progress.reward, progress.iteration)
        self._inner.iteration(progress)

    def evaluated(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Every column of the point, against nfe."""
        for name, value in row.items():
            self._writer.add_scalar(f"point/{name}", value, int(row["nfe"]))
        self._writer.flush()
        self._inner.evaluated(row, evaluation)

    def should_stop(self) -> bool:
        """Whatever the inner observer says."""
        return self._inner.should_stop()


def with_tracker(observer: Observer, name: str | None) -> Observer:
    """`observer`, wrapped in the tracker of that name if one is given."""
    return observer if name is None else Tensorboard(observer)
