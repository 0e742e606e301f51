"""The manifest of a decoder in stream form: a JSON file that ties its two graphs together.

`first` decodes the first chunk of a clip, `next` every other. The weights of both are in one
external-data file. All files lie in the manifest's folder, and their digests are in the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converter import origin
from converter.errors import UserError
from converter.origin import Origin

FORMAT = "convert-vae stream"
VERSION = 2
SUFFIX = ".json"
FIRST, NEXT, DATA = "first", "next", "data"
ROLES = (FIRST, NEXT, DATA)


@dataclass(frozen=True)
class CacheEntry:
    """A cache: an output of both graphs, and the input of `next` that takes it as it is.

    Attributes:
        input, output: Names in the graphs; `first` has no such input.
        channels, frames, scale: For a latent of H x W its shape is
            (N, channels, frames, H * scale, W * scale).
    """

    input: str
    output: str
    channels: int
    frames: int
    scale: int


@dataclass(frozen=True)
class StreamSpec:
    """What the two graphs take and give.

    Attributes:
        family: Name of the decoder's family.
        chunk: Latent frames that a graph takes in one run; `first` takes `lead` more. K of them
            make K * time frames in `next` and (K - 1) * time + 1 in `first`.
        latent: Shape (N, C, chunk, H, W) of the latent input of `next`; H and W are None where
            any is taken.
        video_channels: Channels of the video.
        time, space: A clip of T latent frames has (T - 1) * time + 1 frames of
            (H * space) x (W * space).
        caches: In the order of the graphs' inputs and outputs.
        latent_name, video_name: Of the other input and output.
        origin: The decoder that the graphs were made of; None for graphs of another tool.
        lead: Latent frames that `first` takes more than `next`.
        multiple: A clip has T = `lead` + a positive multiple of this.
    """

    family: str
    chunk: int
    latent: tuple[int, int, int, int | None, int | None]
    video_channels: int
    time: int
    space: int
    caches: tuple[CacheEntry, ...]
    latent_name: str = "latent"
    video_name: str = "video"
    origin: Origin | None = None
    lead: int = 0
    multiple: int = 1

    def first_frames(self) -> int:
        """T of the latent that `first` takes."""
        return self.chunk + self.lead

    def inputs(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs of `next` for a latent of height x width."""
        batch = self.latent[0]
        shapes: dict[str, tuple[int, ...]] = {
            self.latent_name: (*self.latent[:3], height, width),
        }
        for cache in self.caches:
            size = height * cache.scale, width * cache.scale
            shapes[cache.input] = (batch, cache.channels, cache.frames, *size)
        return shapes


@dataclass(frozen=True)
class FileEntry:
    """A file beside the manifest, and the SHA-256 of its content in hexadecimal."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read or is to be written; `files` has one of each of `ROLES`."""

    folder: Path
    spec: StreamSpec
    files: Mapping[str, FileEntry]

    def path(self, role: str) -> Path:
        """Where a file is."""
        return self.folder / self.files[role].name

    def to_text(self) -> str:
        """The JSON text."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            **asdict(self.spec),
            "origin": self.spec.origin and self.spec.origin.to_json(),
            "files": {role: asdict(self.files[role]) for role in ROLES},
        }
        return json.dumps(data, indent=2) + "\n"


def is_manifest(path: Path) -> bool:
    """Whether a path names a manifest rather than a graph."""
    return path.suffix.lower() == SUFFIX


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
        return sha.hexdigest()


def describe(folder: Path, spec: StreamSpec, names: Mapping[str, str]) -> Manifest:
    """The manifest of files that are there, by role."""
    files = {role: FileEntry(names[role], digest(folder / names[role])) for role in ROLES}
    return Manifest(folder, spec, files)


def read(path: Path) -> Manifest:
    """Read a manifest and make sure that its files are the ones it was written with.

    Raises:
        UserError: it is missing, not a manifest, or of another version; or one of its files is
            missing or has changed.
    """
    manifest = _parse(path)
    for role in ROLES:
        file = manifest.path(role)
        if not file.is_file():
            raise UserError(
                f"{path} needs {file}, which is missing: keep the manifest, its graphs and their "
                "data in one folder under the names they were written with."
            )
        if digest(file) != manifest.files[role].sha256:
            raise UserError(
                f"{file} is not the file that {path} was written with: it has changed since; "
                "export or convert again."
            )
    return manifest


def _parse(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"the manifest {path} does not exist.") from error
    except OSError as error:
        raise UserError(f"the manifest {path} cannot be read: {error.strerror}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the manifest {path} is not JSON: {error}.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path} is not a manifest that export-vae --stream wrote.")
    if data.get("version") != VERSION:
        raise UserError(
            f"the manifest {path} has version {data.get('version')}; this program reads {VERSION}."
        )
    try:
        return Manifest(path.parent, _spec(data, path), _files(data["files"]))
    except KeyError as error:
        raise UserError(f"the manifest {path} lacks {error}.") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"the manifest {path} is damaged: {error}.") from error


def _spec(data: Mapping[str, Any], path: Path) -> StreamSpec:
    caches = tuple(
        CacheEntry(
            input=_text(entry, "input"),
            output=_text(entry, "output"),
            channels=_size(entry, "channels"),
            frames=_size(entry, "frames"),
            scale=_size(entry, "scale"),
        )
        for entry in data["caches"]
    )
    n, c, t, h, w = data["latent"]
    chunk = _size(data, "chunk")
    fixed = {"N": n, "C": c, "T": t, "H": h or 1, "W": w or 1}
    n, c, t = (_size(fixed, axis) for axis in "NCT")
    if t != chunk:
        raise ValueError(f"the latent has {t} frames, but the chunk {chunk}")
    return StreamSpec(
        family=_text(data, "family"),
        chunk=chunk,
        latent=(n, c, t, h and _size(fixed, "H"), w and _size(fixed, "W")),
        video_channels=_size(data, "video_channels"),
        time=_size(data, "time"),
        space=_size(data, "space"),
        caches=caches,
        latent_name=_text(data, "latent_name"),
        video_name=_text(data, "video_name"),
        lead=_size(data, "lead", least=0),
        multiple=_size(data, "multiple"),
        origin=data["origin"] and origin.from_json(data["origin"], f"the manifest {path}"),
    )


def _files(data: Mapping[str, Any]) -> dict[str, FileEntry]:
    files = {}
    for role in ROLES:
        entry = FileEntry(_text(data[role], "name"), _text(data[role], "sha256"))
        if entry.name in ("", ".", "..") or set(entry.name) & set("/\\\0"):
            raise ValueError(f"{entry.name!r} is not the name of a file beside it")
        files[role] = entry
    return files


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, not a text")
    return value


def _size(data: Mapping[str, Any], key: str, least: int = 1) -> int:
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key} is {value!r}, not a number from {least} on")
    return value
