"""Convert so that the validation passes: where it does not, by smaller Winograd tiles or none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from converter import accuracy, ladder
from converter.compare.tolerance import Tolerance
from converter.convert import Notify, Options, run_once
from converter.errors import UserError
from converter.plan import Plan
from converter.result import ConvertResult

ATTEMPTS = 4
"""Validations at most; the last is of a graph without Winograd."""

MARGIN_DB = 1.0
"""By how much more than what was lacking the next attempt is planned to be better."""


def run(source: Path, output: Path | None, options: Options, notify: Notify) -> ConvertResult:
    """Convert `source` into `output`; `notify` hears the name of each phase as it begins.

    The plan keeps to what the least PSNR allows by estimate. Where the validation rejects it
    nevertheless, what it measured corrects the estimate, and the graph is made anew: with smaller
    tiles where Winograd was the choice of `auto`, in the end without.

    Raises:
        UserError: bad input or usage; nothing was written.
    """
    if options.min_psnr is not None and not options.validate:
        raise UserError("a least PSNR is what the validation checks, so it cannot be left out.")
    budget = None if options.min_psnr is None else accuracy.error_at(options.min_psnr)
    missed: list[ConvertResult] = []
    while True:
        result = run_once(source, output, replace(options, keep_invalid=False), notify, budget)
        if result.equal:
            break
        if not _can_lower(result.plan):
            if options.keep_invalid:
                result = run_once(source, output, options, notify, budget)
            break
        missed.append(result)
        budget = 0.0 if len(missed) + 1 >= ATTEMPTS else _next_budget(result)
    note = _note(result.plan, missed)
    return replace(result, notes=(*result.notes, note)) if note else result


def _can_lower(plan: Plan) -> bool:
    return any(ladder.may_change(entry) for entry in plan.entries)


def _next_budget(result: ConvertResult) -> float:
    """What the estimate must come down to, as it was off by the same factor as the measured one.

    0 where no tolerance would have passed: no tile is at fault then.
    """
    assert result.validation is not None
    needed = result.validation.needed
    lacking = math.inf if needed is None else _lacking_db(needed, result.validation.tolerance)
    return float(result.error * 10 ** (-(lacking + MARGIN_DB) / 20))


def _lacking_db(needed: Tolerance, given: Tolerance) -> float:
    """By how many dB the errors must shrink, for both limits to hold."""
    peak = 20 * math.log10(needed.max_abs_of_range / given.max_abs_of_range)
    return max(given.min_psnr_db - needed.min_psnr_db, peak)


def _note(plan: Plan, missed: list[ConvertResult]) -> str:
    """What was given up for the accuracy, and what was measured before that; empty if nothing."""
    given_up = ladder.what_was_given_up(plan, accuracy.ACCURACY)
    if not given_up:
        return ""
    why = "by estimate"
    if missed:
        why = f"after {len(missed)} of more that did not pass, the first with {_reasons(missed[0])}"
    return f"{given_up} for {accuracy.ACCURACY}, {why}"


def _reasons(result: ConvertResult) -> str:
    verdict = result.validation
    assert verdict is not None
    reasons = (output.why_fails(verdict.tolerance) for output in verdict.outputs)
    return "; ".join(reason for reason in reasons if reason)
