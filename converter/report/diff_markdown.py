"""A comparison's result as Markdown, for an issue or a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from converter.compare.diff_result import CandidateResult, DiffResult
from converter.report.diff_html import gates_sentence
from converter.report.diff_terminal import relative, rows


def to_markdown(result: DiffResult) -> str:
    """Verdicts, figures, layers, environment and command."""
    lines = [f"# {result.reference.label}: {'pass' if result.passed else 'different'}", ""]
    for candidate in result.candidates:
        mark = "pass" if candidate.passed else "**FAIL**"
        lines.append(f"- {mark} `{candidate.run.label}`: {candidate.sentence()}")
        if candidate.layers:
            lines.append(f"  - layers: {candidate.layers.sentence()}")
        lines += [f"  - note: {note}" for note in candidate.notes]
    lines += ["", f"Gates: {gates_sentence(result)}.", ""]
    for candidate in result.candidates:
        lines += _outputs(candidate)
        lines += _layers(candidate)
    lines += ["## How this was made", "", *_table(("", ""), list(result.environment.items()))]
    if result.command:
        lines += ["```console", f"$ {result.command}", "```", ""]
    return "\n".join(lines)


def _outputs(candidate: CandidateResult) -> list[str]:
    lines = []
    for output in candidate.outputs:
        lines += [f"## {candidate.run.label}: {output.name}, feed {output.feed}", ""]
        lines += _table(("figure", "value"), rows(output))
    return lines


def _layers(candidate: CandidateResult) -> list[str]:
    if candidate.layers is None:
        return []
    budget = candidate.layers.budget
    found = [
        (layer.name, relative(layer.local), relative(layer.accumulated), layer.why_blamed(budget))
        for layer in candidate.layers.layers
    ]
    title = f"## {candidate.run.label}: layers, relative L2"
    return [title, "", *_table(("Conv3D output", "local", "accumulated", ""), found)]


def _table(heads: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return [row(heads), row(("---",) * len(heads)), *(row(cells) for cells in found), ""]
