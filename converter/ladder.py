"""Give up speed for a budget: of accuracy, or of memory.

A ladder is what one Conv3D may be made of: what is fastest, then Winograd by smaller tiles, then
the fastest strategy without Winograd. Each rung takes more time and less of what the budget is of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from converter.choice import WHY
from converter.conv3d import Conv3D, Unread
from converter.cost import RATES, estimate
from converter.kernels import GENERIC, Target
from converter.plan import ASKED_FOR, PINNED, Plan, PlanEntry
from converter.rewrites import BY_NAME, KEEP, WINOGRADS, unfold
from converter.rewrites.winograd_limits import LIMITED, LIMITS

ASIDE = (PINNED, ASKED_FOR)
"""Reasons of strategies that somebody asked for: no budget changes these."""

Amount = Callable[[Conv3D, str], float]
"""What a Conv3D takes of the budget under a strategy."""


@dataclass(frozen=True)
class Budget:
    """A sum over the layers that may not be exceeded.

    Attributes:
        limit: The most that all layers may take together; 0 leaves no Winograd.
        amount: What one of them takes.
        of: What the budget is of, in a word, for `PlanEntry.given_up_for`.
    """

    limit: float
    amount: Amount
    of: str


def within(
    found: Sequence[Conv3D | Unread], plan: Plan, budget: Budget, target: Target = GENERIC
) -> Plan:
    """The plan with Winograd by smaller tiles, or left out, until it is within a budget.

    Of all single changes, the one that takes away the most for a second is made first. Where none
    of what `auto` chose by Winograd can stay, all of it is left out.

    Args:
        found: The Conv3Ds that the plan was made for.
        plan: What is fastest.
        budget: What it is held to.
        target: Where seconds that the plan does not know are estimated for.
    """
    ladders = {
        index: list(_ladder(conv, entry, budget.amount, target))
        for index, (conv, entry) in enumerate(zip(found, plan.entries, strict=True))
        if isinstance(conv, Conv3D) and may_change(entry)
    }
    taken = {index: ladder[0] for index, ladder in ladders.items()}
    total = sum_of(found, plan, budget.amount)
    while total > budget.limit:
        steps = [
            (index, rung)
            for index, ladder in ladders.items()
            for rung in ladder
            if rung.amount < taken[index].amount
        ]
        if not steps or not budget.limit:
            taken = {index: ladder[-1] for index, ladder in ladders.items()}
            break
        index, rung = max(steps, key=lambda step: taken[step[0]].gain(step[1]))
        total += rung.amount - taken[index].amount
        taken[index] = rung
    entries = [
        _changed(entry, taken[index].strategy, budget.of) if index in taken else entry
        for index, entry in enumerate(plan.entries)
    ]
    return replace(plan, entries=tuple(entries))


def sum_of(found: Sequence[Conv3D | Unread], plan: Plan, amount: Amount) -> float:
    """What all layers take together."""
    pairs = zip(found, plan.entries, strict=True)
    return sum(amount(c, entry.strategy) for c, entry in pairs if isinstance(c, Conv3D))


def may_change(entry: PlanEntry) -> bool:
    """Whether a budget may give the layer something else."""
    return entry.strategy in WINOGRADS and entry.reason not in ASIDE


def what_was_given_up(plan: Plan, of: str) -> str:
    """For a budget, how Winograd was cut down, to be put into a sentence; empty if it was not."""
    lowered = [entry for entry in plan.entries if entry.given_up_for == of]
    smaller = sum(entry.strategy in WINOGRADS for entry in lowered)
    done = []
    if smaller:
        done.append(f"cut down in {smaller} Conv3D")
    if len(lowered) > smaller:
        done.append(f"left out of {len(lowered) - smaller} Conv3D")
    return f"Winograd was {' and '.join(done)}" if done else ""


@dataclass(frozen=True)
class _Rung:
    """What one layer may be made of."""

    strategy: str
    amount: float
    seconds: float

    def gain(self, other: _Rung) -> float:
        """What another takes away of the amount for each second that it takes more."""
        return (self.amount - other.amount) / max(other.seconds - self.seconds, 1e-12)


def _ladder(conv: Conv3D, entry: PlanEntry, amount: Amount, target: Target) -> Iterator[_Rung]:
    """What the layer has, then Winograd by smaller tiles, then the best strategy without."""
    rates = RATES[target]
    asked = entry.strategy
    measured = entry.seconds.get(asked)
    scale = measured / estimate(conv, asked).seconds(rates) if measured else 1.0
    for name in WINOGRADS[WINOGRADS.index(asked) :]:
        if BY_NAME[name].check(conv) is None:
            yield _Rung(name, amount(conv, name), estimate(conv, name).seconds(rates) * scale)
    others = {n: s for n, s in entry.seconds.items() if n not in WINOGRADS and n != KEEP}
    if not others:
        others = {unfold.NAME: estimate(conv, unfold.NAME).seconds(rates)}
    best = min(others, key=lambda name: others[name])
    yield _Rung(best, amount(conv, best), others[best])


def _changed(entry: PlanEntry, strategy: str, of: str) -> PlanEntry:
    if strategy == entry.strategy:
        return entry
    limited = strategy in LIMITED
    why = f"tiles of at most {LIMITS[strategy]} frames" if limited else WHY[strategy]
    return replace(entry, strategy=strategy, reason=f"{why}, for {of}", given_up_for=of)
