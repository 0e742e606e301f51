"""`POST v2/models/NAME/decode`: a latent as .npy, a video as .mp4, or a PNG, or .npy."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, cast

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from converter.serving.connection import unless_gone
from converter.serving.datatypes import NUMPY
from converter.serving.errors import RequestError, Status, invalid
from converter.serving.http_tensors import CHUNK
from converter.serving.inference import InferenceRequest, check_tensor
from converter.serving.model import OPEN, Results, ServedModel, TensorMetadata
from converter.serving.request_ids import identify
from converter.serving.server import Server
from converter.session import Array
from converter.video_file import Encoding, Frames, VideoWriter, to_uint8

PROTOCOL = "http"
MP4, PNG, NPY = "video/mp4", "image/png", "application/x-npy"
KINDS = (MP4, PNG, NPY)

FLOATS = ("FP16", "BF16", "FP32")

FPS = Fraction(16)
MAX_FPS = 1000


@dataclass(frozen=True)
class Asked:
    """What a client wants of a latent: the type of the answer, and its details."""

    kind: str
    encoding: Encoding
    frame: int


def asked(model: ServedModel, request: Request) -> Asked:
    """Of a request's header and query; raises `RequestError`. The body is not looked at."""
    decoder_ends(model)
    return Asked(
        wanted_kind(request.headers.get("accept", "*/*")),
        Encoding(fps=_fps(request.query_params.get("fps"))),
        _frame(request.query_params.get("frame", "0")),
    )


async def decode(
    server: Server, model: ServedModel, asked: Asked, request: Request, body: memoryview
) -> Response:
    """Decode the latent that the body is; raises `RequestError`."""
    latent, video = decoder_ends(model)
    array = read_npy(model, latent, body)
    inference = InferenceRequest({latent.name: array}, (video.name,), log_id=identify(request))
    if asked.kind == NPY:
        made = await unless_gone(request, server.infer_whole(model, inference, PROTOCOL))
        return _npy(made[video.name])
    if array.shape[0] != 1:
        raise invalid(f"the latent has {array.shape[0]} clips; a picture or a video shows one")
    if asked.kind == PNG:
        made = await unless_gone(request, server.infer_whole(model, inference, PROTOCOL))
        picture = await asyncio.to_thread(_png, made[video.name], asked.frame)
        return Response(picture, media_type=PNG)
    parts = server.infer(model, inference, PROTOCOL)
    first = await unless_gone(request, anext(parts))
    return StreamingResponse(_mp4(parts, first, video.name, asked.encoding), media_type=MP4)


def decoder_ends(model: ServedModel) -> tuple[TensorMetadata, TensorMetadata]:
    """The latent and the video of a model; raises `RequestError` where it is no decoder."""
    ends = (*model.inputs, *model.outputs)
    if len(model.inputs) == len(model.outputs) == 1 and len(ends[0].shape) == len(ends[1].shape):
        latent, video = ends
        colours = video.shape[-1 if video.datatype == "UINT8" else 1] if video.shape else 0
        types = latent.datatype in FLOATS and video.datatype in (*FLOATS, "UINT8")
        if len(video.shape) == 5 and colours in (3, OPEN) and types:
            return latent, video
    raise invalid(f"{model.name} is no decoder from one latent to one video: use infer")


def wanted_kind(accept: str) -> str:
    """The first of `KINDS` that an Accept header names; a wildcard is .mp4. Raises 406."""
    for entry in accept.lower().split(","):
        name = entry.partition(";")[0].strip()
        if name in ("", "*/*", "video/*"):
            return MP4
        if name == "image/*":
            return PNG
        if name in KINDS:
            return name
    raise RequestError(
        Status.NOT_ACCEPTABLE, f"the answer can be {', '.join(KINDS)}; none is accepted"
    )


def read_npy(model: ServedModel, latent: TensorMetadata, body: memoryview) -> Array:
    """The array of a .npy file, without unpickling anything; raises 400."""
    file = io.BytesIO(body[: 1 << 16])
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = reader(file)
    except (ValueError, KeyError, EOFError, TypeError, SyntaxError, RecursionError) as error:
        raise invalid("the body is not a .npy file") from error
    wanted = NUMPY[latent.datatype]
    if dtype != wanted:
        raise invalid(f"the latent is {dtype}, but {model.name} takes {wanted}")
    check_tensor(model, latent.name, latent.datatype, shape)
    data = body[file.tell() :]
    needed = math.prod(shape) * wanted.itemsize
    if len(data) != needed:
        raise invalid(f"the latent has {len(data)} bytes, but its shape needs {needed}")
    array: Array = np.frombuffer(data, wanted).reshape(shape)
    return array.reshape(shape[::-1]).T if fortran else array


def _fps(text: str | None) -> Fraction:
    try:
        fps = Fraction(text) if text is not None and len(text) < 20 else FPS
    except (ValueError, ZeroDivisionError) as error:
        raise invalid(f"fps is {text!r}, not a number") from error
    if not 0 < fps <= MAX_FPS or fps.denominator > MAX_FPS * MAX_FPS:
        raise invalid(f"fps is {text!r}, not above 0 and at most {MAX_FPS}")
    return fps


def _frame(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise invalid(f"frame is {text!r}, not a number from 0 on")
    return int(text)


def pixels(video: Array) -> Frames:
    """Frames (T, H, W, 3) in bytes of the one clip (1, 3, T, H, W), or of bytes (1, T, H, W, 3)."""
    return video[0] if video.dtype == np.uint8 else to_uint8(video[0])


def _png(video: Array, frame: int) -> bytes:
    frames = pixels(video)
    if frame >= len(frames):
        raise invalid(f"there is no frame {frame}: the video has {len(frames)}")
    file = io.BytesIO()
    Image.fromarray(frames[frame]).save(file, "PNG")
    return file.getvalue()


def _npy(video: Array) -> Response:
    file = io.BytesIO()
    wide = video.astype(np.float32) if video.dtype.kind == "V" else video  # bfloat16
    header = {"descr": wide.dtype.str, "fortran_order": False, "shape": wide.shape}
    np.lib.format.write_array_header_1_0(file, header)

    async def pieces() -> AsyncIterator[memoryview]:
        yield file.getbuffer()
        data = np.ascontiguousarray(wide).reshape(-1).view(np.uint8).data
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    size = str(file.tell() + wide.nbytes)
    return StreamingResponse(pieces(), media_type=NPY, headers={"content-length": size})


async def _mp4(
    parts: AsyncIterator[Results], first: Results, name: str, encoding: Encoding
) -> AsyncIterator[bytes]:
    """Encode each part as it comes, in a thread, and send what the encoder has given up to then."""
    sink = _Sink()
    async with aclosing(parts):  # type: ignore[type-var]
        writer = await asyncio.to_thread(VideoWriter, cast(IO[bytes], sink), encoding, ".mp4")
        await asyncio.to_thread(writer.write, pixels(first[name]))
        del first
        yield sink.take()
        async for part in parts:
            await asyncio.to_thread(writer.write, pixels(part[name]))
            yield sink.take()
        await asyncio.to_thread(writer.close)
        yield sink.take()


class _Sink:
    """What the encoder writes into, and the response takes out of."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        return data
