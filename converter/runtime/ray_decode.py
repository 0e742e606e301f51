"""Decode a folder of latents on Ray Data: a dataset of file names, and actors that hold a decoder.

Only names go through Ray. Each actor reads its latents and writes its videos itself, as
`decode_file` does, so that every node needs the same folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import UserError
from converter.ray_cluster import RayOptions, Replicas, ray_running, resources
from converter.runtime.decoder import Decoder
from converter.runtime.outputs import Format, partial_path, remove
from converter.runtime.run import Done, decode_file
from converter.runtime.tiles import Tiles
from converter.session import SessionSettings

Job = tuple[Path, Path]
"""A file of a latent, and what it becomes."""


@dataclass(frozen=True)
class Work:
    """What an actor needs to decode: the arguments of `Decoder` and `decode_file`."""

    model: Path
    provider: str
    settings: SessionSettings
    tiles: Tiles | None
    name: str | None
    form: Format


class _Actor:
    """One decoder; called with a row of the dataset, it gives what became of that."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._decoder = Decoder(work.model, work.provider, work.settings, work.tiles)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        latent, out, work = Path(row["latent"]), Path(row["output"]), self._work
        row = {**row, "frames": 0, "seconds": 0.0, "peak_bytes": 0, "error": ""}
        try:
            done = decode_file(
                self._decoder, latent, work.name, out, work.form, lambda frames, total: None
            )
        except UserError as error:
            return {**row, "error": str(error)}
        except OSError as error:
            return {**row, "error": f"{latent}: {error.strerror or error} ({out})."}
        return {
            **row,
            "frames": done.frames,
            "seconds": done.seconds,
            "peak_bytes": done.peak_bytes or 0,
        }


def decode_on_ray(
    work: Work, jobs: Sequence[Job], replicas: Replicas, options: RayOptions
) -> Iterator[Done | UserError]:
    """Decode all files; yields each, or what was wrong with it, when it is done, in any order.

    What was begun when the generator is closed, or fails, is not kept.

    Raises:
        UserError: Ray does not start, or the cluster has no room for so many replicas.
    """
    left = {str(out.absolute()): (latent, out) for latent, out in jobs}
    rows = [{"latent": str(latent.absolute()), "output": key} for key, (latent, _) in left.items()]
    own = False
    try:
        with ray_running(options) as own:
            import ray

            for row in _dataset(ray, work, rows, replicas).iter_rows():
                latent, out = left.pop(row["output"])
                if row["error"]:
                    yield UserError(row["error"])
                    continue
                peak = row["peak_bytes"] or None
                yield Done(latent, str(out), row["frames"], row["seconds"], peak)
    finally:
        if own:  # by now all actors have ended
            for _, out in left.values():
                remove(partial_path(out))


def _dataset(ray: Any, work: Work, rows: list[dict[str, str]], replicas: Replicas) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    return dataset.map(
        _Actor,
        fn_constructor_args=(work,),
        concurrency=(replicas.least, replicas.most),
        **resources(replicas, [work.provider]),
    )
