"""Export and convert a decoder of every family, and print what came of it as a Markdown table.

    python -m scripts.families_table                 # small configurations, minutes
    python -m scripts.families_table --dynamic Mochi # any T, H, W; only the families named
    python -m scripts.families_table --published     # published configurations, much memory

Errors are largest absolute ones in fp32 on the CPU: of the exported graph against upstream's
`decode`, and of the converted graph against the exported one. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import converter
from converter.export import export
from converter.result import ConvertResult
from models.base import Family
from models.source import FAMILIES
from tests.small_families import SMALL

HEADER = (
    "| family | parameters | Conv3D | after | export error | conversion error "
    "| nodes | after | export s | convert s |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Job:
    """One decoder: what to call it, and the source to export."""

    name: str
    source: str


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help="only these")
    parser.add_argument("--published", action="store_true", help="published configurations")
    parser.add_argument("--dynamic", action="store_true", help="export for any T, H, W")
    arguments = parser.parse_args()
    chosen = [f for f in FAMILIES if not arguments.family or f.name in arguments.family]
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for family in chosen:
            for job in _jobs(family, Path(folder), published=arguments.published):
                print(_row(job, Path(folder), dynamic=arguments.dynamic), flush=True)


def _jobs(family: Family, folder: Path, *, published: bool) -> list[Job]:
    if published:
        return [Job(name, name) for name in family.presets]
    source = folder / family.name
    source.mkdir()
    config = SMALL[family.name] | {"_class_name": family.upstream.__name__}
    (source / "config.json").write_text(json.dumps(config))
    return [Job(family.name, str(source))]


def _row(job: Job, folder: Path, *, dynamic: bool) -> str:
    exported, converted = folder / "exported.onnx", folder / "converted.onnx"
    start = time.perf_counter()
    before = export(job.source, exported, seed=0, dynamic=dynamic, overwrite=True)
    middle = time.perf_counter()
    assert before.written, before.sentence()
    shapes = {"latent": before.latent}
    after = converter.convert(exported, converted, shapes=shapes, overwrite=True)
    end = time.perf_counter()
    cells = [
        job.name,
        f"{before.graph.parameters:,}",
        str(before.graph.conv3d),
        str(after.conv3d_left),
        f"{before.max_abs_error:.1e}",
        _conversion_error(after),
        str(before.graph.node_count),
        str(after.after.node_count if after.after else "-"),
        f"{middle - start:.0f}",
        f"{end - middle:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _conversion_error(result: ConvertResult) -> str:
    assert result.validation is not None, str(result)
    assert result.written, str(result)
    return f"{max(output.max_abs for output in result.validation.outputs):.1e}"


if __name__ == "__main__":
    main()
