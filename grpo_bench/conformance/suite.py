"""All checks of one method, in the order of the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from grpo_bench.conformance.ascent import check_ascent
from grpo_bench.conformance.cost import check_cost
from grpo_bench.conformance.credit import check_credit
from grpo_bench.conformance.descendants import check_descendants
from grpo_bench.conformance.finding import Check, Finding, blame, findings
from grpo_bench.conformance.gradient import check_gradient
from grpo_bench.conformance.identity import check_identity
from grpo_bench.conformance.order import check_order
from grpo_bench.conformance.plan import check_plan
from grpo_bench.conformance.process import check_process
from grpo_bench.conformance.ratio import check_ratio
from grpo_bench.conformance.resume import check_resume
from grpo_bench.conformance.scale import check_scale
from grpo_bench.conformance.source import check_source
from grpo_bench.conformance.subject import Subject
from grpo_bench.conformance.trust import check_trust
from grpo_bench.errors import UserError

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "plan": check_plan,
        "source": check_source,
        "credit": check_credit,
        "order": check_order,
        "descendants": check_descendants,
        "scale": check_scale,
        "process": check_process,
        "identity": check_identity,
        "ratio": check_ratio,
        "trust": check_trust,
        "gradient": check_gradient,
        "cost": check_cost,
        "ascent": check_ascent,
        "resume": check_resume,
    }
)
"""Families of checks by name; the first two need no credit and no model."""


def check_method(subject: Subject) -> Iterator[Finding]:
    """Every finding about a method, as it is made. Where no forest or no credit comes out, the rest is skipped.

    Raises:
        UserError: unknown method or setting.
    """
    try:
        subject.method()
    except UserError:
        raise
    except Exception as error:
        yield Finding("load", False, blame(subject, error))
        return
    for name, check in CHECKS.items():
        found = findings(name, check, subject)
        yield from found
        broken = [f for f in found if f.passed is False and f.check in ("plan", "credit", "shapes")]
        if broken:
            yield Finding("the rest", None, f"needs a {'plan' if name == 'plan' else 'credit'} that works")
            if name == "plan":
                yield from findings("source", check_source, subject)
            return
