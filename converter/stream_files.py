"""Put the four files of a stream decoder into place together, or not at all.

The graphs and their data get names that no file has, and the manifest, renamed last, is what makes
them count: until then the old manifest and its files are as they were.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from converter import manifest, model_file, output_files
from converter.errors import UserError
from converter.manifest import DATA, FIRST, NEXT, ROLES, Manifest, StreamSpec
from converter.model_file import DataFile, Model


def refuse_to_replace(output: Path, overwrite: bool) -> None:
    """Raise `UserError` if writing the manifest `output` is impossible or replaces unasked."""
    if not manifest.is_manifest(output):
        raise UserError(f"{output} is to be a manifest; its name must end in {manifest.SUFFIX}.")
    output_files.refuse_to_replace(output, overwrite)


class PendingStream:
    """A stream decoder written beside its destination: complete and usable, not yet in place."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.output = output
        self.folder = folder
        self.manifest_path = folder / output.name
        self.names = _free_names(output)

    def write(self, graphs: Mapping[str, Model], spec: StreamSpec) -> Manifest:
        """Write both graphs, the weights they share once, and the manifest."""
        data = DataFile(self.folder / self.names[DATA])
        data.path.touch()  # It is there even if no weight is bulky.
        for role in (FIRST, NEXT):
            model_file.write(graphs[role], self.folder / self.names[role], data)
        made = manifest.describe(self.folder, spec, self.names)
        with self.manifest_path.open("w", encoding="utf-8") as file:
            file.write(made.to_text())
            file.flush()
            os.fsync(file.fileno())
        return made

    def commit(self) -> None:
        """Rename the files into place, the manifest last; then remove what it no longer names."""
        parent = self.output.parent
        old = _own_files(self.output)
        moved: list[Path] = []
        try:
            for role in (DATA, FIRST, NEXT):
                target = parent / self.names[role]
                moved.append(target)
                os.replace(self.folder / self.names[role], target)
            os.replace(self.manifest_path, self.output)
        except BaseException:
            if self.manifest_path.exists():
                for path in moved:
                    path.unlink(missing_ok=True)
            raise
        for path in old:
            with suppress(OSError):
                path.unlink()


@contextmanager
def pending_stream(output: Path) -> Iterator[PendingStream]:
    """A place to write the files of the manifest `output`; what is not committed is removed.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield PendingStream(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_names(output: Path) -> dict[str, str]:
    number = 0
    while True:
        names = _names(output.stem if number == 0 else f"{output.stem}.{number}")
        if not any((output.parent / name).exists() for name in names.values()):
            return names
        number += 1


def _names(stem: str) -> dict[str, str]:
    return {FIRST: f"{stem}.first.onnx", NEXT: f"{stem}.next.onnx", DATA: f"{stem}.data"}


def _own_files(output: Path) -> list[Path]:
    """The files of the manifest at `output`, if it has some that carry its name."""
    try:
        old = manifest.read(output)
    except (UserError, OSError):
        return []  # Not ours, or changed by someone: theirs to remove.
    own = re.compile(re.escape(output.stem) + r"(\.\d+)?(\.first\.onnx|\.next\.onnx|\.data)")
    return [old.path(role) for role in ROLES if own.fullmatch(old.files[role].name)]
