"""The run's configuration: TOML in, TOML out; an unknown key is an error that offers the nearest.

Order of precedence: defaults (with the workload's own), recipe, `--config`, `--set`. No file is read implicitly.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from grpo_bench.builtin import DEFAULT_METHOD, DEFAULT_POLICY, DEFAULT_REWARD, DEFAULT_WORKLOAD
from grpo_bench.errors import UserError, nearest
from grpo_bench.metering.ledger import BUDGET_KINDS, BudgetKind
from grpo_bench.settings import Settings
from grpo_bench.store.names import check_text, parse_toml

Table = dict[str, object]
MANY = 1 << 16
"""More prompts, images or pixels a side than anybody means to ask for."""
LONGEST_PROMPT = 10_000
"""Of a negative prompt; no text encoder reads so much."""
LONGEST_SAID = 200
"""Of a refused value, how much a sentence repeats."""
DEEPEST = 64
LONGEST_REWARDS = 500
"""Of the text that names rewards and their weights."""
Device = Literal["auto", "cpu", "cuda"]


class Section(Settings):
    """A frozen table of settings in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class MethodSection(BaseModel):
    """`[method]`: the method's name; every other key belongs to the method's own config."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = DEFAULT_METHOD
    """Registered name of the method."""

    @property
    def settings(self) -> Table:
        """The method's own keys."""
        return dict(self.model_extra or {})


class RewardSection(BaseModel):
    """`[reward]`: which rewards to train on; a table `[reward.NAME]` holds a reward's own settings."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = DEFAULT_REWARD
    """A reward, or several with weights: `shapes-correctness:0.8,shapes-appeal:0.2`."""
    combine: Literal["zscore", "raw"] = "zscore"
    """Several rewards: z-score each, then add; or add raw scores, then z-score."""

    @property
    def weights(self) -> dict[str, float]:
        """Reward names and their weights, in order."""
        return parse_rewards(self.name)

    def settings(self, name: str) -> Table:
        """The own keys of reward `name`."""
        table = (self.model_extra or {}).get(name, {})
        if not isinstance(table, dict):
            raise UserError(f"reward.{name} must be a table of settings, not {table!r}")
        return dict(table)


class PromptsSection(Section):
    """`[prompts]`: a prompt file; `prompts = "FILE"` is short for its path."""

    path: str = ""
    """Prompt file, instead of the workload's own prompts."""
    column: str = ""
    """Column of a table (or key of its JSON objects) that holds the prompts; empty: prompt, Prompt, text ..."""

    @model_validator(mode="after")
    def _column_of_a_file(self) -> PromptsSection:
        if self.column and not self.path:
            raise ValueError("prompts.column names a column of a prompt file; give the file with --prompts")
        return self

    @model_serializer
    def _short(self) -> str | dict[str, str]:
        return {"path": self.path, "column": self.column} if self.column else self.path


class ModelSection(Section):
    """`[model]`: which policy to post-train."""

    path: str = ""
    """Folder or hub id of a diffusers pipeline; empty: the workload's own."""
    revision: str = ""
    """Commit, branch or tag of a hub id; empty: its main branch. A stored config has the commit it was resolved to."""
    policy: str = DEFAULT_POLICY
    """Model family, which decides how the pipeline is read."""
    max_sequence_length: int = Field(256, ge=0, le=MANY)
    """Length of the T5 text tokens; 0 for a pipeline without T5."""
    variant: str | None = None
    """Which weights of several, as `fp16`; default: those without a name, or the only ones."""
    height: int | None = Field(None, ge=8, le=MANY)
    """Image height in pixels; default: the model's own."""
    width: int | None = Field(None, ge=8, le=MANY)
    """Image width in pixels; default: the model's own."""
    negative_prompt: str | None = Field(None, max_length=LONGEST_PROMPT)
    """What guidance moves away from; default: the empty prompt."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network; latents, kernels and log-probs are fp32 always."""
    trainable: Literal["full", "lora"] = "full"
    """Train all of the denoiser's weights, or low-rank adapters."""
    lora_rank: int = Field(32, ge=1, le=MANY)
    """Rank of the adapters."""
    lora_alpha: int = Field(64, ge=1, le=MANY)
    """Scale of the adapters."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class SamplingSection(Section):
    """`[sampling]`: how rollouts are drawn."""

    steps: int = Field(10, ge=2)
    """Transitions from noise to image."""
    kernel: str = "flow-sde"
    """Transition rule of the stochastic steps: flow-sde, dance-sde or cps; ddim for epsilon models (sd)."""
    noise: float | None = Field(None, gt=0, le=1000)
    """Noise level of the kernel; default: its paper's (0.7, 0.3, 0.8, 1.0)."""
    guidance: float = Field(1.0, ge=1)
    """Classifier-free guidance, in rollout and training alike; above 1 every step costs two evaluations."""
    train_last: bool = False
    """Let the last step be stochastic and trained, for recipes whose code does so."""
    grid: Literal["model", "linear"] = "model"
    """Noise levels of the steps: the model's own, or evenly from 1 to 0. Evaluation takes the model's always."""
    shift: float = Field(1.0, ge=0.01, le=100)
    """Shift of the linear grid, s -> shift s / (1 + (shift - 1) s); 1 leaves it as it is."""

    @field_validator("shift")
    @classmethod
    def _shifts_the_linear_grid(cls, shift: float, info: ValidationInfo) -> float:
        if shift != 1 and info.data.get("grid") == "model":
            raise ValueError("the model's own grid has its own shift, so leave it at 1 or set sampling.grid = 'linear'")
        return shift


class ObjectiveSection(Section):
    """`[objective]`: the loss shared by all methods."""

    clip: float | None = Field(None, gt=0)
    """Half-width of the ratio clip; default 1e-4 sqrt(65536 / D) for D latent numbers."""
    advantage_clip: float = Field(5.0, gt=0)
    """Advantages are clipped to plus or minus this."""
    reduction: Literal["mean", "sum"] = "mean"
    """Reduction of the log-prob over the latent's numbers."""
    logprob_scale: Literal["gaussian", "raw"] = "gaussian"
    """The Gaussian's log-prob, or the bare squared error (the released CPS code)."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL to the reference policy; above 0 costs a reference evaluation a parent."""


class TrainingSection(Section):
    """`[training]`: the loop."""

    prompts: int = Field(16, ge=1, le=MANY)
    """Prompts an iteration."""
    updates: int = Field(1, ge=1)
    """Optimiser steps an iteration, split over its prompts."""
    learning_rate: float = Field(1e-5, gt=0, le=1e38)
    """AdamW's learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """AdamW's weight decay."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's first moment decay."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's second moment decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Evaluate an exponential moving average of the weights with this decay; 0: the weights themselves."""
    ema_every: int = Field(1, ge=1)
    """Optimiser steps between two averagings."""
    ema_warmup: Literal["flow-grpo", "none"] = "flow-grpo"
    """Decay of optimiser step n: Flow-GRPO's min((1 + n) / (10 + n), ema_decay), or `ema_decay` from the start."""
    ema_repeats: int = Field(1, ge=1)
    """Averagings in a row of the same weights, for recipes whose code averages once a micro-batch."""
    rollout_batch: int = Field(256, ge=1)
    """Latents in one no-gradient evaluation."""
    train_batch: int = Field(64, ge=1)
    """Parents in one forward and backward."""
    decode_batch: int = Field(64, ge=1, le=MANY)
    """Latents decoded to images at once."""
    checkpoint_every: int = Field(5, ge=1)
    """Iterations between checkpoints; every evaluation makes one too."""


class EvaluationSection(Section):
    """`[evaluation]`: the grid and the sampler, the same for every method of a suite."""

    every: int = Field(0, ge=0)
    """Evaluate each time this much `nfe` has been spent; 0: a tenth of an `nfe` budget, else first and last only."""
    prompts: int = Field(64, ge=1)
    """Held-out prompts; fewer are used when there are fewer."""
    images: int = Field(4, ge=1, le=MANY)
    """Images a prompt; diversity needs two."""
    steps: int = Field(10, ge=1)
    """ODE steps of the deployment sampler."""
    guidance: float = Field(1.0, ge=1)
    """Guidance of the deployment sampler."""
    split: str = "heldout"
    """Which of the workload's prompt sets is evaluated."""
    seed: int = Field(0, ge=0, lt=1 << 63)
    """Stream of the evaluation noise, the same for every method and seed."""
    noises: int = Field(1, ge=1, le=100)
    """Noises under which the base and the two points around the budget are scored; all other points have one."""


def _default_budget() -> dict[BudgetKind, float]:
    return {"nfe": 60000.0}


class RunConfig(Section):
    """Everything that determines a run's outcome."""

    workload: str = DEFAULT_WORKLOAD
    """Registered name of the workload."""
    seed: int = Field(0, ge=0, lt=1 << 63)
    """Seed of the prompts, the noise and the method's own draws."""
    recipe: str = ""
    """Recipe this config was started from."""
    device: Device = "auto"
    """Where to run; `auto` is resolved once, where the command is given: cuda where torch sees it, else cpu."""
    protocol: Literal["controlled", "paper"] = "controlled"
    """Shared settings for every method, or a paper's own."""
    prompts: PromptsSection = PromptsSection()
    budget: dict[BudgetKind, float] = Field(default_factory=_default_budget)
    """What ends the run: exactly one of nfe, rollout-nfe, reward-calls, updates, seconds, iterations; 0: base only."""
    method: MethodSection = MethodSection()
    reward: RewardSection = RewardSection()
    model: ModelSection = ModelSection()
    sampling: SamplingSection = SamplingSection()
    objective: ObjectiveSection = ObjectiveSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()

    @field_validator("prompts", mode="before")
    @classmethod
    def _path_or_table(cls, prompts: object) -> object:
        if isinstance(prompts, str):
            return {"path": prompts}
        if not isinstance(prompts, Mapping | PromptsSection):
            raise ValueError("it must be a file's name, or a table such as { path = 'art.csv', column = 'caption' }")
        return prompts

    @field_validator("budget")
    @classmethod
    def _one_budget(cls, budget: dict[BudgetKind, float]) -> dict[BudgetKind, float]:
        if len(budget) != 1 or next(iter(budget.values())) < 0:
            raise ValueError("must hold exactly one amount, such as nfe = 60000, or 0 to evaluate the base model only")
        return budget

    @property
    def budget_kind(self) -> BudgetKind:
        """The counter that ends the run."""
        return next(iter(self.budget))

    @property
    def budget_amount(self) -> float:
        """How much of it may be spent."""
        return self.budget[self.budget_kind]

    @property
    def evaluation_every(self) -> float:
        """Distance of the evaluation grid's marks in `nfe`; 0 where only the first and last point are evaluated."""
        if self.evaluation.every == 0 and self.budget_kind == "nfe":
            return self.budget_amount / 10
        return self.evaluation.every

    def to_toml(self) -> str:
        """The resolved config as TOML; reading it back gives an equal config."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def build(layers: Iterable[tuple[str, Mapping[str, object]]]) -> RunConfig:
    """Merge named layers, later ones winning, and validate.

    Raises:
        UserError: an unknown key or a value that breaks its rule, with the key and the nearest known one.
    """
    merged: Table = {}
    for _, layer in layers:
        merged = merge(merged, layer)
    return validated(RunConfig, merged)


def merge(base: Mapping[str, object], over: Mapping[str, object]) -> Table:
    """`over` laid on `base`, table by table. A budget replaces a budget whole: one run has one.

    `prompts = "FILE"` becomes the table that it is short for, on which a column can be laid.
    """
    return _merge(_with_prompt_table(base), _with_prompt_table(over))


def _with_prompt_table(table: Mapping[str, object]) -> Mapping[str, object]:
    prompts = table.get("prompts")
    return {**table, "prompts": {"path": prompts}} if isinstance(prompts, str) else table


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> Table:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping) and key != "budget"
        result[key] = _merge(below, value) if nested else value  # type: ignore[arg-type]
    return result


def parse_set(assignment: str) -> Table:
    """`method.group=16` as a nested table; the value is TOML where it parses, else text.

    Raises:
        UserError: there is no `=` or no key.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes KEY=VALUE, such as method.group=16, not {assignment!r}")
    try:
        parsed = parse_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    # A newline in the text could start a second assignment, which must not vanish.
    value: object = parsed["value"] if list(parsed) == ["value"] else text
    parts = key.strip().split(".")
    if len(parts) > DEEPEST:
        raise UserError(f"--set {key[:40]!r}... has {len(parts)} parts between its dots, and no setting has so many")
    for part in reversed(parts):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def parse_budget(text: str) -> Table:
    """`nfe=60000` as a budget table.

    Raises:
        UserError: unknown kind or no positive number.
    """
    kind, _, amount = text.partition("=")
    if kind not in BUDGET_KINDS:
        raise UserError(f"--budget takes KIND=AMOUNT; no kind is named {kind!r}; {nearest(kind, BUDGET_KINDS)}")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(
            f"--budget {kind} needs a number from 0 (the base only) up, not {amount!r}, such as {kind}=1000"
        )
    return {"budget": {kind: value}}


def parse_rewards(spec: str) -> dict[str, float]:
    """`hps:0.8,clip:0.2` as names and weights; a weight defaults to 1.

    Raises:
        UserError: an empty name, a repeated one or a weight that is not a positive number.
    """
    weights: dict[str, float] = {}
    for part in spec.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            value = -1.0
        if (
            not spec.isascii()
            or len(spec) > LONGEST_REWARDS
            or not name
            or name in weights
            or not 0 < value < float("inf")
        ):
            raise UserError(f"--reward takes NAME or NAME:WEIGHT,NAME:WEIGHT with positive weights, not {spec!r}")
        weights[name] = value
    return weights


def read_toml(path: Path) -> Table:
    """A TOML file as a table.

    Raises:
        UserError: missing, unreadable or not TOML.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"config file {str(path)!r} cannot be read: {error}") from error


def recipes() -> dict[str, Table]:
    """The shipped recipes by name."""
    folder = resources.files("grpo_bench_suites") / "recipes"
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.removesuffix(".toml"))
        if entry.name.endswith(".toml")
    }


def recipe(name: str) -> Table:
    """One recipe's settings, without its `about` table.

    Raises:
        UserError: unknown name; the nearest is offered.
    """
    known = recipes()
    if name not in known:
        raise UserError(f"no recipe is named {name!r}; {nearest(name, known)}")
    return {key: value for key, value in known[name].items() if key != "about"} | {"recipe": name}


def check_recipe(recipe: Mapping[str, object], over: Mapping[str, object]) -> None:
    """A recipe's method settings are laid under its own method only: another would refuse them, or misread them.

    Raises:
        UserError: `over` names another method than the recipe; a recipe without a method goes with any.
    """
    methods = [layer.get("method") for layer in (recipe, over)]
    own, other = (method.get("name") if isinstance(method, Mapping) else None for method in methods)
    if own is not None and other not in (None, own):
        raise UserError(
            f"recipe {recipe.get('recipe')!r} is for method {own!r}, not {other!r}; drop the recipe or the method"
        )


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], table: Mapping[str, object], where: str = "") -> M:
    """`table` as a `model`; `where` prefixes its keys in messages.

    Raises:
        UserError: the first broken rule, as one sentence.
    """
    check_text(table, where)
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"] if part != "[key]"]
        key = ".".join([where, *loc] if where else loc)
        if first["type"] == "extra_forbidden":
            raise UserError(f"no setting is named {key!r}; {_near_key(model, loc, where)}") from error
        if model is RunConfig and loc[0] == "budget" and len(loc) > 1 and first["type"] == "literal_error":
            raise UserError(f"no budget is named {loc[1]!r}; {nearest(loc[1], BUDGET_KINDS)}") from error
        reason = first["msg"].removeprefix("Value error, ")
        given = repr(first["input"])
        given = given if len(given) <= LONGEST_SAID else f"{given[:LONGEST_SAID]} ..."
        raise UserError(f"{key} = {given} is not allowed: {reason[0].lower()}{reason[1:]}") from error


def _near_key(model: type[BaseModel], loc: Sequence[str], where: str) -> str:
    for part in loc[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return "remove it"  # inside a plugin's list, mapping or union, whose keys cannot be told apart
        model = annotation
    prefix = ".".join([part for part in (where, *loc[:-1]) if part])
    return nearest(
        ".".join([prefix, loc[-1]] if prefix else loc[-1:]),
        [f"{prefix}.{f}" if prefix else f for f in model.model_fields],
    )
