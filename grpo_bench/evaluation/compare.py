"""Images of a run's base and trained policy for any prompts, from the same noise."""

from __future__ import annotations

from safetensors.torch import load_file

from grpo_bench.config import EvaluationSection, RunConfig
from grpo_bench.errors import UserError
from grpo_bench.evaluation.diversity import Images
from grpo_bench.evaluation.evaluator import sample
from grpo_bench.media import as_shown
from grpo_bench.metering.ledger import Ledger
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.handle import Metered
from grpo_bench.store.run import RunStore
from grpo_bench.training.averages import Ema
from grpo_bench.training.checkpoint import EMA


def compare(
    store: RunStore, config: RunConfig, policy: Policy, prompts: tuple[str, ...], *, images: int, seed: int
) -> tuple[Images, Images]:
    """(base, trained) images, each (P, I, H, W, 3) uint8, the trained ones from the weights that were evaluated.

    Of clips, what a page shows of them. `policy` arrives as the base and leaves as the trained one.

    Raises:
        UserError: the run has no checkpoint yet.
    """
    checkpoint = store.checkpoints.latest()
    if checkpoint is None:
        name, ended = store.folder.name, store.record.status == "done"
        raise UserError(
            f"{name} has lost its checkpoint, and there are no weights to draw with; run it with --again"
            if ended
            else f"{name} has no checkpoint yet; finish it with grpo-bench run --resume {name} first"
        )
    settings: EvaluationSection = config.evaluation.model_copy(update={"images": images, "seed": seed})
    conditioning = policy.encode(prompts).to(policy.device)
    handle = Metered(policy, Ledger(), guidance=settings.guidance, batch=config.training.rollout_batch)

    def draw() -> Images:
        batch = config.training.decode_batch
        drawn = sample(policy, handle, conditioning, prompts, settings, decode_batch=batch, role="eval")
        shown_B = as_shown(drawn.reshape(-1, *drawn.shape[2:]))
        return shown_B.reshape(*drawn.shape[:2], *shown_B.shape[1:])

    base = draw()
    policy.restore(checkpoint.path)
    ema = Ema(policy, config.training)
    ema.load(load_file(checkpoint.path / EMA))
    with ema.applied():
        return base, draw()
