"""Saved outputs: an .npz of which memory holds only the parts that are asked for.

An .npz is a zip archive of .npy files (numpy.lib.format). A member that is stored as it is can be
read from the archive itself; the others are unpacked into the spool first.
"""

from __future__ import annotations

import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import ml_dtypes
import numpy as np

from converter.compare.feed_files import by_feed, key_of
from converter.compare.spool import Spool
from converter.compare.stored_array import AnyArray, StoredArray, parts
from converter.errors import UserError

BLOCK = 1 << 20
"""Bytes read at a time."""

_KINDS = "biuf"
"""Of NumPy: booleans, integers and floats."""

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What zipfile, its decompressors and NumPy raise of a file that is not in order."""

_LOCAL_HEADER = 30
"""Bytes before the member's name: its length is the field at 26, that of what follows it at 28
(PKWARE's APPNOTE.TXT, section 4.3.7)."""


def open_saved(path: Path, spool: Spool) -> list[dict[str, AnyArray]]:
    """The outputs of a file, one dictionary a feed; every byte is checked against its CRC once.

    Raises `UserError` if the file is missing, no .npz, damaged, or holds something else than arrays
    of numbers.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged:
                raise UserError(f"{path} is damaged: {damaged} does not match its checksum.")
            found = {
                member.filename.removesuffix(".npy"): _open(path, archive, member, spool)
                for member in archive.infolist()
            }
    except UserError:
        raise
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a readable .npz file: {reason}.") from error
    if not found:
        raise UserError(f"{path} holds no array.")
    runs = by_feed(path, found)
    for number, run in enumerate(runs):
        if set(run) != set(runs[0]):
            raise UserError(
                f"{path} holds {', '.join(runs[0])} of feed 0, but {', '.join(run)} of feed "
                f"{number}."
            )
    return runs


def write_saved(path: Path, runs: Sequence[Mapping[str, AnyArray]]) -> None:
    """Save every run's arrays in one .npz, whole or not at all.

    Members are not compressed, so that they can be read in parts; bfloat16, which NumPy cannot
    name, becomes float32.
    """
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
        pending = Path(folder) / path.name
        with zipfile.ZipFile(pending, "w") as archive:
            for number, arrays in enumerate(runs):
                for name, array in arrays.items():
                    member = f"{key_of(number, name)}.npy"
                    with archive.open(member, "w", force_zip64=True) as file:
                        _write(file, array)
        os.replace(pending, path)


def _write(file: IO[bytes], array: AnyArray) -> None:
    kind = np.dtype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array.dtype
    header = {
        "descr": np.lib.format.dtype_to_descr(kind),
        "fortran_order": False,
        "shape": array.shape,
    }
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts(array):
        file.write(part.astype(kind, copy=False).tobytes())


def _open(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, spool: Spool) -> AnyArray:
    where = f"{info.filename.removesuffix('.npy')} in {path}"
    if not info.filename.endswith(".npy"):
        raise UserError(f"{where} is no array.")
    with archive.open(info) as member:
        shape, fortran, kind = _header(member, where)
        start = member.tell()
        size = math.prod(shape) * kind.itemsize
        if info.file_size - start != size:
            raise UserError(f"{where} is cut short.")
        plain = kind.newbyteorder("=")
        if not shape or not size:  # neither can be mapped
            return np.frombuffer(member.read(), kind).astype(plain).reshape(shape)
        if info.compress_type == zipfile.ZIP_STORED:
            stored = StoredArray(path, _offset(path, info) + start, kind, shape, plain)
        else:
            blocks = iter(lambda: member.read(BLOCK), b"")
            stored = StoredArray(spool.write(blocks), 0, kind, shape, plain)
    return _in_c_order(stored, spool) if fortran and len(shape) > 1 else stored


def _header(member: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, kind = np.lib.format.read_array_header_1_0(member)
    else:  # longer headers; version 3 is for names of fields, which arrays of numbers lack
        shape, fortran, kind = np.lib.format.read_array_header_2_0(member)
    if kind.hasobject:
        raise UserError(f"{where} is pickled Python objects, which are not loaded.")
    if kind.kind not in _KINDS or kind.itemsize > 8:
        raise UserError(f"{where} is {kind}; booleans, integers and floats can be compared.")
    return shape, fortran, kind


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the member's own bytes begin in the archive."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
    name, extra = struct.unpack("<HH", header[26:])
    return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def _in_c_order(stored: StoredArray, spool: Spool) -> StoredArray:
    """What was written column by column, row by row; some rows are in memory at a time."""
    turned = replace(stored, shape=stored.shape[::-1])
    count = stored.shape[0]
    some = max(1, BLOCK * count // (stored.size * stored.kind.itemsize))

    def blocks() -> Iterator[bytes]:
        for row in range(0, count, some):
            yield turned[..., row : row + some].T.tobytes()

    return StoredArray(spool.write(blocks()), 0, stored.dtype, stored.shape, stored.dtype)
