"""Put a model's files into place together, or not at all.

The new files are made in a temporary folder beside the output and renamed when all is done, so an
interrupted run leaves what was there before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converter import model_file
from converter.errors import UserError
from converter.model_file import DataFile, Model
from converter.weights import tensors


def refuse_to_replace(output: Path, overwrite: bool) -> None:
    """Raise `UserError` if writing `output` is impossible or would replace something unasked."""
    if not output.parent.is_dir():
        raise UserError(f"the folder of {output} does not exist.")
    if output.is_dir():
        raise UserError(f"{output} is a folder; name a file.")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; give --overwrite to replace it.")


def check_writable(option: str, path: Path) -> None:
    """Raise `UserError` unless a file can be made or replaced where an option of a command says."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: the folder does not exist.")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {path}: the folder cannot be written: {error.strerror}."
        ) from error


class PendingOutput:
    """A model written beside its destination, there for checking, not yet in place."""

    def __init__(self, folder: Path, output: Path, source: Path | None) -> None:
        self.output = output
        self.source = source
        self.model_path = folder / output.name
        self.data_path = folder / _free_data_name(output)

    def write(self, model: Model, external: bool) -> None:
        """Write the skeleton with its weights, one weight at a time, and flush to the disk."""
        data = DataFile(self.data_path) if external else None
        model_file.write(model, self.model_path, data)

    def file_bytes(self) -> int:
        """Bytes of what was written."""
        return sum(p.stat().st_size for p in (self.model_path, self.data_path) if p.exists())

    def data_file(self) -> str:
        """Name of the file that holds the weights; empty where the model does."""
        return self.data_path.name if self.data_path.exists() else ""

    def commit(self) -> None:
        """Rename the files into place: the data first, so that the model never lacks it."""
        orphans = _orphans(self.output, self.source)
        data = self.output.parent / self.data_path.name
        try:
            if self.data_path.exists():
                os.replace(self.data_path, data)
            os.replace(self.model_path, self.output)
        except BaseException:
            if self.model_path.exists():
                data.unlink(missing_ok=True)
            raise
        for path in orphans:
            with suppress(OSError):
                path.unlink()


@contextmanager
def pending_output(output: Path, source: Path | None = None) -> Iterator[PendingOutput]:
    """A place to write the files of `output`; whatever is not committed is removed again.

    Args:
        output: The model file to make or to replace.
        source: The model that it is made from; its external data stays where it is, unless it is
            `output` itself.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield PendingOutput(folder, output, source)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; raises `OSError`."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        pending = Path(folder) / path.name
        pending.write_text(text, encoding="utf-8")
        os.replace(pending, path)


def _free_data_name(output: Path) -> str:
    """A name for the external data that no file has: an old model keeps its data until replaced."""
    name, number = f"{output.name}.data", 1
    while (output.parent / name).exists():
        name, number = f"{output.name}.{number}.data", number + 1
    return name


def _orphans(output: Path, source: Path | None) -> set[Path]:
    """External data that nothing needs once the model at `output` is replaced.

    A file counts if it carries the model's name, and neither another model of the folder nor
    `source` refers to it: two models may share their weights.
    """
    folder = Path(os.path.abspath(output.parent))
    orphans = {
        file
        for file in _data_files(output)
        if file.parent == folder
        and file.name.startswith(f"{output.name}.")
        and file.name.endswith(".data")
    }
    if orphans:
        others = {*output.parent.glob("*.onnx"), *([source] if source else [])}
        for other in others:
            if other.resolve() != output.resolve():
                orphans -= _data_files(other)
    return orphans


def _data_files(path: Path) -> set[Path]:
    """The files that the model at `path` names as its external data; none if it is no model."""
    try:
        proto, _ = model_file.parse(path)
    except (UserError, OSError):
        return set()
    return {
        Path(os.path.abspath(path.parent / entry.value))
        for tensor in tensors(proto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
