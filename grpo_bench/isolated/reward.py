"""The base class of a reward that is computed in an environment of its own, and what it shares with other rewards."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import Field

from grpo_bench.isolated.environment import Environment, interpreter
from grpo_bench.isolated.process import Timeouts, Worker
from grpo_bench.reward import Reward, RewardConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class WorkerConfig(RewardConfig):
    """Settings of a reward whose scorer runs in a process of its own."""

    python: str = ""
    """Interpreter of the scorer's environment; empty: the one that `grpo-bench rewards install` made."""
    start_timeout: float = Field(600.0, gt=0)
    """Seconds in which the scorer must have loaded its weights."""
    batch_timeout: float = Field(600.0, gt=0)
    """Seconds in which it must have scored a batch."""


class IsolatedScorer:
    """Scores images in another process: `settings` go to the script's `load`, whose result is called with each batch.

    Raises:
        UserError: there is no interpreter for it.
    """

    def __init__(
        self,
        name: str,
        script: Path,
        settings: Mapping[str, object],
        config: WorkerConfig,
        environment: Environment | None = None,
    ) -> None:
        python = config.python or str(interpreter(name, environment))
        times = Timeouts(config.start_timeout, config.batch_timeout)
        self.worker = Worker(name, python, script, settings, times)

    def start(self) -> None:
        """Let the worker read its weights now, if it has not.

        Raises:
            UserError: it cannot be started.
        """
        self.worker.start()

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) fp32 of RGB images in [0, 1], rounded to 8 bits as in an image file.

        Raises:
            UserError: the worker cannot be started.
            RewardFailed: the worker died, hung, failed or answered nonsense.
        """
        import torch

        pixels_BHWC = (images_BCHW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.tensor(self.worker.score(pixels_BHWC.contiguous().cpu().numpy(), prompts), dtype=torch.float32)


C = TypeVar("C", bound=WorkerConfig, covariant=True)


class IsolatedReward(Reward[C], Generic[C]):
    """A reward whose `script` runs under the interpreter of another environment and defines `load(settings)`.

    `load` gets `settings()`, reads the weights, and returns the scorer: a callable that takes images (B, H, W, 3), a
    numpy array of uint8, and B prompts, and returns B numbers, higher is better. The script imports what its own
    environment has, and nothing of grpo-bench.
    """

    Config: ClassVar[type[RewardConfig]] = WorkerConfig
    script: ClassVar[str]
    """The scorer's file, relative to the file of the class."""
    environment: ClassVar[Environment | None] = None
    """What `grpo-bench rewards install NAME` makes; None: `--set reward.NAME.python=FILE` must name an interpreter."""

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self._scorer: IsolatedScorer | None = None

    def settings(self, device: str) -> Mapping[str, object]:
        """What the script's `load` gets, as JSON can write it; `device` is where the run's policy is."""
        return {"device": device}

    def load(self, device: torch.device) -> None:
        """Start the worker and let it read its weights."""
        if self._scorer is None:
            script = Path(inspect.getfile(type(self))).resolve().parent / self.script
            settings = self.settings(str(device))
            self._scorer = IsolatedScorer(self.name, script, settings, self.config, self.environment)
        self._scorer.start()

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the worker says of the images."""
        if self._scorer is None:
            self.load(images_BCHW.device)
        assert self._scorer is not None
        return self._scorer.score(images_BCHW, prompts)
