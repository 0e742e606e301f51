"""Which output of a comparison is shown, frame by frame, on every feed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from converter.compare.diff_result import CandidateResult, OutputVerdict
from converter.compare.frames import frame_count
from converter.compare.pictures import (
    Look,
    Strip,
    affordable,
    choose_frames,
    look,
    strip,
)
from converter.compare.sides import alike
from converter.compare.stored_array import AnyArray

Run = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Shown:
    """One candidate's output on one feed, beside the reference's."""

    candidate: int
    verdict: OutputVerdict
    reference: AnyArray
    array: AnyArray
    look: Look

    @property
    def worst_frame(self) -> int | None:
        """The frame of the first sample with the largest error; before all, one not finite."""
        table = self.verdict.detail.frames
        frames = [one for one in table.frames if one.sample == 0] if table else []
        if not frames:
            return None
        return max(frames, key=lambda one: (math.isnan(one.max_abs), one.max_abs)).frame


def shown(
    results: Sequence[CandidateResult],
    reference: Sequence[Run],
    candidates: Sequence[Sequence[Run]],
) -> Iterator[list[Shown]]:
    """For every feed, what to show of each candidate: the first output of three channels, else the
    first that looks like frames at all. A candidate without such an output is left out.
    """
    for feed, one in enumerate(reference):
        name = _best([v for v in results[0].outputs if v.feed == feed]) if results else None
        found = []
        for number, result in enumerate(results):
            for verdict in result.outputs:
                if (verdict.feed, verdict.name) != (feed, name):
                    continue
                shown_as = look(verdict.detail)
                arrays = alike(one[verdict.name], candidates[number][feed][verdict.candidate_name])
                if shown_as:
                    found.append(Shown(number, verdict, *arrays, shown_as))
        if found:
            yield found


def with_pictures(
    results: tuple[CandidateResult, ...],
    reference: Sequence[Run],
    candidates: Sequence[Sequence[Run]],
) -> tuple[CandidateResult, ...]:
    """Every candidate with pictures of the same frames, on every feed; the worst are among them."""
    strips: dict[int, list[Strip]] = {}
    for found in shown(results, reference, candidates):
        array = found[0].reference
        most = affordable(array, (1 + 2 * len(found)) * len(reference))
        worst = {one.worst_frame for one in found} - {None}
        frames = choose_frames(frame_count(array), most, [n for n in worst if n is not None])
        for one in found:
            made = strip(
                one.verdict.name, one.verdict.feed, (one.reference, one.array), one.look, frames
            )
            strips.setdefault(one.candidate, []).append(made)
    return tuple(
        replace(result, pictures=tuple(strips.get(number, ())))
        for number, result in enumerate(results)
    )


def _best(verdicts: Sequence[OutputVerdict]) -> str | None:
    usable = [v for v in verdicts if look(v.detail)]
    coloured = [v for v in usable if v.detail.difference.shape[1] == 3]
    return next((v.name for v in [*coloured, *usable]), None)
