"""A decoder in stream form small enough to read: two causal convolutions, with a Relu between."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from converter import model_file
from converter.manifest import CacheEntry, StreamSpec
from converter.stream_files import pending_stream

CHANNELS = 8
NAMES = ("one", "two")


def weights() -> dict[str, np.ndarray]:
    """Both (8 or 3, 8, 3, 3, 3): large enough to go into the data file."""
    generator = np.random.default_rng(5)
    shapes = {"one": (CHANNELS, CHANNELS, 3, 3, 3), "two": (3, CHANNELS, 3, 3, 3)}
    return {
        name: (generator.standard_normal(shape) / 15).astype(np.float32)
        for name, shape in shapes.items()
    }


def decode(latent: np.ndarray) -> np.ndarray:
    """The whole clip at once, in float64: zeros before it, one frame for each."""
    x = torch.tensor(latent, dtype=torch.float64)
    for name, weight in weights().items():
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1, 2, 0))
        x = torch.nn.functional.conv3d(padded, torch.tensor(weight, dtype=torch.float64))
        x = x.relu() if name == "one" else x
    return x.numpy()


def graph(role: str, chunk: int, height: int | str = 4, width: int | str = 5) -> onnx.ModelProto:
    """`first` begins with zeros, `next` with its caches."""
    nodes, inputs, outputs = [], [info("latent", CHANNELS, chunk, height, width)], []
    initializers = [from_array(value, f"{name}.weight") for name, value in weights().items()]
    for name, starts in (("pads", [0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), ("start", [-2]), ("end", [99])):
        initializers.append(from_array(np.array(starts, np.int64), name))
    initializers.append(from_array(np.array([2], np.int64), "axis"))
    x = "latent"
    for name in NAMES:
        if role == "first":
            nodes.append(helper.make_node("Pad", [x, "pads"], [f"{name}.seen"]))
        else:
            inputs.append(info(f"cache_in.{name}", CHANNELS, 2, height, width))
            node = helper.make_node("Concat", [f"cache_in.{name}", x], [f"{name}.seen"], axis=2)
            nodes.append(node)
        kept = [f"{name}.seen", "start", "end", "axis"]
        nodes.append(helper.make_node("Slice", kept, [f"cache_out.{name}"]))
        outputs.append(info(f"cache_out.{name}", CHANNELS, 2, height, width))
        made = "video" if name == "two" else f"{name}.made"
        pads = [0, 1, 1, 0, 1, 1]
        conv = [f"{name}.seen", f"{name}.weight"]
        nodes.append(helper.make_node("Conv", conv, [made], name=name, pads=pads))
        if name == "one":
            nodes.append(helper.make_node("Relu", [made], ["x"]))
            x = "x"
    video = info("video", 3, chunk, height, width)
    body = helper.make_graph(nodes, role, inputs, [video, *outputs], initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def info(name: str, channels: int, frames: int, height: int | str, width: int | str):
    shape = [1, channels, frames, height, width]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def spec(chunk: int, height: int | None = 4, width: int | None = 5, lead: int = 0) -> StreamSpec:
    """What the graphs take and give."""
    return StreamSpec(
        family="two convolutions",
        chunk=chunk,
        latent=(1, CHANNELS, chunk, height, width),
        video_channels=3,
        time=1,
        space=1,
        lead=lead,
        caches=tuple(
            CacheEntry(f"cache_in.{name}", f"cache_out.{name}", CHANNELS, 2, 1) for name in NAMES
        ),
    )


def in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its video as bytes (N, T, H, W, C): 128 is 0, 64 is 1; cut off below 0 and above 255."""
    (made,) = [node for node in model.graph.node if "video" in node.output]
    made.output[0] = "floats"
    numbers = (("by", 64), ("more", 128), ("black", 0), ("white", 255))
    model.graph.initializer.extend(from_array(np.float32(n), name) for name, n in numbers)
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["floats", "by"], ["scaled"]),
            helper.make_node("Add", ["scaled", "more"], ["raised"]),
            helper.make_node("Clip", ["raised", "black", "white"], ["cut"]),
            helper.make_node("Cast", ["cut"], ["cast"], to=TensorProto.UINT8),
            helper.make_node("Transpose", ["cast"], ["video"], perm=[0, 2, 3, 4, 1]),
        ]
    )
    (video,) = [output for output in model.graph.output if output.name == "video"]
    n, c, t, h, w = [dim.dim_value or dim.dim_param for dim in video.type.tensor_type.shape.dim]
    shape = [n, t, h, w, c]
    video.CopyFrom(helper.make_tensor_value_info("video", TensorProto.UINT8, shape))
    return model


def with_wait(model: onnx.ModelProto) -> onnx.ModelProto:
    """It goes once around an empty loop for each unit of its latent's largest value."""
    carried = [helper.make_tensor_value_info(f"count.{end}", TensorProto.FLOAT, []) for end in "ab"]
    going = [helper.make_tensor_value_info(f"going.{end}", TensorProto.BOOL, []) for end in "ab"]
    once = helper.make_tensor_value_info("round", TensorProto.INT64, [])
    same = [helper.make_node("Identity", [f"{x}.a"], [f"{x}.b"]) for x in ("going", "count")]
    body = helper.make_graph(same, "body", [once, going[0], carried[0]], [going[1], carried[1]])
    (last,) = [node for node in model.graph.node if "video" in node.output]
    last.output[0] = "early"
    model.graph.initializer.append(from_array(np.float32(0), "nothing"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["latent"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["rounds"], to=TensorProto.INT64),
            helper.make_node("Loop", ["rounds", "", "nothing"], ["waited"], body=body),
            helper.make_node("Add", ["early", "waited"], ["video"]),
        ]
    )
    return model


def write(
    path: Path,
    chunk: int = 2,
    *,
    dynamic: bool = False,
    uint8: bool = False,
    wait: bool = False,
    lead: int = 0,
) -> Path:
    """Write a manifest with its files; returns `path`."""
    sizes = ("H", "W") if dynamic else (4, 5)
    graphs = {}
    with pending_stream(path) as pending:
        for role in ("first", "next"):
            plain = pending.folder / f"{role}.plain"
            made = graph(role, chunk + (lead if role == "first" else 0), *sizes)
            made = with_wait(made) if wait else made
            onnx.save(in_bytes(made) if uint8 else made, plain)
            graphs[role] = model_file.load(plain)
        plane = (None, None) if dynamic else (4, 5)
        pending.write(graphs, spec(chunk, *plane, lead))
        pending.commit()
    return path


def latent(frames: int, height: int = 4, width: int = 5) -> np.ndarray:
    """Seeded, in fp32."""
    generator = np.random.default_rng(frames)
    shape = (1, CHANNELS, frames, height, width)
    return generator.standard_normal(shape).astype(np.float32)
