"""Writes what the loop makes into a run's folder."""

from __future__ import annotations

from grpo_bench.config import RewardSection
from grpo_bench.evaluation.combination import combination
from grpo_bench.evaluation.evaluator import ByPrompt, Evaluation
from grpo_bench.store.run import RunStore, point_name
from grpo_bench.training import checkpoint
from grpo_bench.training.session import Session


class StoreRecorder:
    """Points, images and checkpoints of one run; see `Recorder`."""

    def __init__(self, store: RunStore, reward: RewardSection) -> None:
        self._store, self._reward = store, reward

    def point(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Images first: a stored point always has its images."""
        images = evaluation.images
        name = point_name(int(row["iteration"]))
        self._store.save_images(name, images.reshape(-1, *images.shape[2:]), images.shape[1], evaluation.fps)
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
