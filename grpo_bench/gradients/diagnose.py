"""Measure labels at one policy, each until it is known well enough; what is stored is not measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grpo_bench.analysis.diagnosis import products, whole
from grpo_bench.analysis.gradients import BUDGET, FEWEST, MOST_NFE, enough, quality
from grpo_bench.analysis.potential import components
from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.evaluation.scoring import make_rewards
from grpo_bench.gradients.deployed import BATCHES, check_differentiable, targets
from grpo_bench.gradients.estimates import Estimate, estimates
from grpo_bench.gradients.place import BASE, Place, label_id, of_run, open_at, place_id
from grpo_bench.gradients.potential import CHILDREN, TRUNKS, branch_scores
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.atomic import output_file
from grpo_bench.store.diagnosis import (
    Diagnosis,
    LabelRecord,
    PolicyRecord,
    PotentialRecord,
    Row,
    only_writer,
    read_diagnosis,
    rounded,
    write_diagnosis,
)
from grpo_bench.store.run import RunStore
from grpo_bench.training.determinism import deterministic
from grpo_bench.training.prepare import Ingredients, Prepared, identify
from grpo_bench.training.session import Session
from grpo_bench.versions import NUMERICS_VERSION

Told = Callable[[str], None]
SAME = 1e-3
"""Relative difference up to which targets that are computed again are those that are stored."""


def diagnose(
    configs: Mapping[str, RunConfig], path: Path, run: RunStore | None, *, potential: bool, told: Told
) -> tuple[Diagnosis, PolicyRecord]:
    """Measure what is missing of the labels at the base, or at `run`'s last checkpoint, and store it in `path`.

    Interrupted, it loses the iterations of the label in work and nothing else. The gradients of one label are kept in
    memory: (J + K) W numbers of four bytes for J = 12 targets, K iterations and W trained weights.

    Args:
        configs: the labels' settings.
        path: the file; what it holds already is kept.
        run: whose policy; None: the base.
        potential: whether the exploration potential is measured too.
        told: what is being done.

    Raises:
        UserError: anything that does not fit, before anything is measured.
        Diverged: a gradient is not finite.
    """
    path = output_file(path)
    known: dict[str, Ingredients] = {}
    identities = {label: identify(config, known) for label, config in configs.items()}
    first = next(iter(identities.values()))
    place = BASE if run is None else of_run(run, first)
    _check_together(place, identities)
    deterministic()
    with only_writer(path):
        diagnosis = _found(path, first.config)
        for policy in _measured(diagnosis, place, identities, potential, told):
            diagnosis = diagnosis.with_policy(policy)
            write_diagnosis(path, diagnosis)
    done = diagnosis.policy(place_id(place, first))
    assert done is not None
    return diagnosis, done


def _measured(
    diagnosis: Diagnosis, place: Place, identities: Mapping[str, Prepared], potential: bool, told: Told
) -> Iterator[PolicyRecord]:
    """The policy's record again and again, each time with one thing more."""
    first = next(iter(identities.values()))
    policy = diagnosis.policy(place_id(place, first))
    ids = {label: label_id(place, identity) for label, identity in identities.items()}
    left = [label for label, own in ids.items() if policy is None or _known(policy, label) != own]
    wanted = potential and (policy is None or policy.potential is None)
    if not left and not wanted:
        return
    told("loading")
    session = open_at(place, first)
    if left:
        check_differentiable(session)
    if policy is None:
        sigmas = rounded(session.schedule.sigmas.tolist())
        policy = PolicyRecord(id=place_id(place, first), name=place.name, nfe=place.nfe, sigmas=sigmas)
    if wanted:
        policy = policy.model_copy(update={"potential": _potential(session, told)})
        yield policy
    if not left:
        return
    h_J = targets(session, told=lambda done: told(f"the deployed objective: batch {done} of {BATCHES}"))
    policy = policy.model_copy(update={"hh_JJ": _same(policy.hh_JJ, _triangle(h_J))})
    yield policy
    del session  # each label opens its own; two models at once may be too many
    for label in left:
        told(f"{label}: loading")
        found = _label(label, ids[label], open_at(place, identities[label]), h_J, policy.hh_JJ, told)
        policy = policy.with_label(found)
        yield policy


def _known(policy: PolicyRecord, label: str) -> str:
    found = policy.label(label)
    return found.id if found else ""


def _label(
    label: str, identity: str, session: Session, h_J: Sequence[Tensor], hh_JJ: tuple[Row, ...], told: Told
) -> LabelRecord:
    """Iterations until the stopping rule is met."""
    started, look = time.perf_counter(), FEWEST
    seen: list[Estimate] = []
    gg_KK: list[Row] = []
    gh_KJ: list[Row] = []
    for estimate in estimates(session):
        seen.append(estimate)
        gg_KK.append(_products(estimate.gradient, [one.gradient for one in seen]))
        gh_KJ.append(_products(estimate.gradient, h_J))
        if len(seen) < look:
            continue
        look = len(seen) + 1 + len(seen) // 20  # a look costs K^2
        exact = [one.exact for one in seen if one.exact is not None]
        found = LabelRecord(
            id=identity,
            label=label,
            method=session.method.name,
            nfe_K=tuple(one.nfe for one in seen),
            gg_KK=tuple(gg_KK),
            gh_KJ=tuple(gh_KJ),
            share_KT=tuple(rounded(one.share_T.tolist()) for one in seen),
            weight_KT=tuple(rounded(one.weight_T.tolist()) for one in seen),
            ge_K=rounded([_dot(one.gradient, own) for one, own in zip(seen, exact, strict=False)]),
            ee_K=rounded([_dot(own, own) for own in exact]),
            seconds=round(time.perf_counter() - started, 3),
        )
        figures = quality(products(hh_JJ, found))
        told(
            f"{label}: {len(seen)} iterations, {sum(found.nfe_K):,} of at most {MOST_NFE:,} NFE, "
            f"q {figures.q.value:.2f} +- {figures.q.error:.3f} for {BUDGET:,}"
        )
        if enough(figures):
            break
    return found


def _potential(session: Session, told: Told) -> PotentialRecord:
    """Of gold and its components, and of the proxy."""
    config, schedule = session.config, session.schedule
    gold = WORKLOADS.get(config.workload).gold
    rewards = {**(make_rewards([gold], type(config.reward)(name=gold)) if gold else {}), **session.rewards}
    points = schedule.steps - 2
    scores = branch_scores(session, rewards, lambda done: told(f"exploration potential: point {done} of {points}"))
    split = [{name: components(score_MCP) for name, score_MCP in at.items()} for at in scores]
    names = split[0] if split else {}
    return PotentialRecord(
        kernel=schedule.kernel,
        noise=schedule.noise,
        trunks=TRUNKS,
        children=CHILDREN,
        sigmas=rounded(schedule.sigmas[1 : points + 1].tolist()),
        within={name: tuple(rounded(at[name][0].tolist()) for at in split) for name in names},
        between={name: tuple(rounded(at[name][1].tolist()) for at in split) for name in names},
    )


def _check_together(place: Place, identities: Mapping[str, Prepared]) -> None:
    """All labels have one model, reward, sampler and deployment sampler, and so one objective; budgets are counted.

    Raises:
        UserError: two differ, or a budget is in seconds.
    """
    for label, identity in identities.items():
        if identity.config.budget_kind == "seconds":
            raise UserError(
                f"{label!r} has a budget of seconds, which does not say how many iterations a window moves over; give "
                "one that is counted, such as nfe = 64000"
            )
    (first, one), *rest = identities.items()
    for label, other in rest:
        if place_id(place, other) != place_id(place, one):
            raise UserError(
                f"{first!r} and {label!r} differ in model, prompts, reward, sampler or seed, so that their gradients "
                "are of two objectives; diagnose them apart"
            )


def _found(path: Path, config: RunConfig) -> Diagnosis:
    """What the file holds, or nothing yet.

    Raises:
        UserError: it is of another workload or reward, or of other numerics.
    """
    fresh = Diagnosis(workload=config.workload, reward=config.reward.name, numerics_version=NUMERICS_VERSION)
    if not path.exists():
        return fresh
    found = read_diagnosis(path)
    for name in ("workload", "reward", "numerics_version"):
        if getattr(found, name) != getattr(fresh, name):
            raise UserError(
                f"{path} has {name} {getattr(found, name)!r}, and this is {getattr(fresh, name)!r}; give another --out"
            )
    return found


def _same(stored: tuple[Row, ...], now: tuple[Row, ...]) -> tuple[Row, ...]:
    """The stored targets' products, if there are any: the labels measured before belong to those.

    Raises:
        UserError: they are not what they are here.
    """
    if not stored:
        return now
    then, here = whole(stored), whole(now)
    if then.shape != here.shape or not np.allclose(then, here, rtol=SAME, atol=SAME * float(np.abs(here).max())):
        raise UserError(
            "the deployed objective's gradient is not what it was when this file was begun, on another machine or "
            "version perhaps; give another --out"
        )
    return stored


def _triangle(vectors: Sequence[Tensor]) -> tuple[Row, ...]:
    return tuple(_products(vector, vectors[: at + 1]) for at, vector in enumerate(vectors))


def _products(one: Tensor, others: Sequence[Tensor]) -> Row:
    return rounded([_dot(one, other) for other in others])


def _dot(one: Tensor, other: Tensor) -> float:
    """In float64: the sum has a million terms that nearly cancel."""
    return float(torch.dot(one.double(), other.double()))
