"""Export and convert a decoder of every family, and print what came of it as a Markdown table.

    python -m scripts.families_table --dynamic              # small ones, for any T, H, W
    python -m scripts.families_table --dynamic Mochi        # only those named
    python -m scripts.families_table --published cosmos     # presets, on latents of 2x2

Errors are largest absolute ones in fp32 on the CPU: of the exported graph against upstream's
`decode`, and of the converted graph against the exported one. Weights are random. Every row has a
process of its own; its seconds begin when the packages are imported.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import converter
from converter import memory
from converter.export import export
from converter.result import ConvertResult
from models.base import Family
from models.source import FAMILIES
from models.wan import WAN
from tests.small_decoders import WAN_2_1, WAN_2_2_TWO_STAGES
from tests.small_families import SMALL

HEADER = (
    "| family | parameters | Conv3D | after | export error | conversion error "
    "| nodes | after | export s | convert s | peak GB |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)

FRAMES = 3
"""T of the latents."""


@dataclass(frozen=True)
class Job:
    """One row: what to call it, the decoder, H and W of its latent."""

    name: str
    family: Family
    config: Mapping[str, Any]
    size: int


def jobs_of(*, published: bool) -> list[Job]:
    """The presets, on the smallest latents that all take; or the small configurations."""
    if published:
        return [Job(preset, f, f.presets[preset], 2) for f in FAMILIES for preset in f.presets]
    wan = [Job("Wan 2.1", WAN, WAN_2_1, 16), Job("Wan 2.2", WAN, WAN_2_2_TWO_STAGES, 16)]
    return [*wan, *(Job(f.name, f, SMALL[f.name], 16) for f in FAMILIES if f is not WAN)]


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="only these families, or presets")
    parser.add_argument("--published", action="store_true", help="published configurations")
    parser.add_argument("--dynamic", action="store_true", help="export for any T, H, W")
    arguments = parser.parse_args()
    names = [job.name for job in jobs_of(published=arguments.published)]
    unknown = [name for name in arguments.name if name not in names]
    if unknown:
        parser.error(f"{', '.join(unknown)}: take {', '.join(names)}")
    print(HEADER, flush=True)
    spawned = multiprocessing.get_context("spawn")
    for name in arguments.name or names:
        with ProcessPoolExecutor(1, mp_context=spawned) as process:
            row = process.submit(_row, name, arguments.published, arguments.dynamic)
            print(row.result(), flush=True)


def _row(name: str, published: bool, dynamic: bool) -> str:
    job = next(job for job in jobs_of(published=published) if job.name == name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = dict(job.config) | {"_class_name": job.family.upstream.__name__}
        (folder / "config.json").write_text(json.dumps(config))
        exported, converted = folder / "exported.onnx", folder / "converted.onnx"
        latent = (1, _channels(job), FRAMES, job.size, job.size)
        start = time.perf_counter()
        before = export(str(folder), exported, seed=0, latent=latent, dynamic=dynamic)
        middle = time.perf_counter()
        assert before.written, before.sentence()
        after = converter.convert(exported, converted, shapes={"latent": latent})
        end = time.perf_counter()
    assert before.max_abs_error is not None
    assert after.after is not None
    peak = memory.peak_bytes()
    cells = [
        name,
        f"{before.graph.parameters:,}",
        str(before.graph.conv3d),
        str(after.conv3d_left),
        f"{before.max_abs_error:.1e}",
        _conversion_error(after),
        str(before.graph.node_count),
        str(after.after.node_count),
        f"{middle - start:.1f}",
        f"{end - middle:.1f}",
        "-" if peak is None else f"{peak / 1e9:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _channels(job: Job) -> int:
    with torch.device("meta"):
        return job.family.wrap(job.family.upstream(**job.config)).geometry.channels


def _conversion_error(result: ConvertResult) -> str:
    assert result.validation is not None, str(result)
    assert result.written, str(result)
    return f"{max(output.max_abs for output in result.validation.outputs):.1e}"


if __name__ == "__main__":
    main()
