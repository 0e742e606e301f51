"""A nearest-2x Resize and the 3x3 Conv behind it become four 2x2 Convs on the small frame.

    before: x (N, C, H, W) -Resize-> (N, C, 2H, 2W) -Conv 3x3-> y (N, O, 2H, 2W)
    after:  x -four Conv 2x2-> 4 times (N, O, H, W) -Concat-DepthToSpace-> y (N, O, 2H, 2W)

4 products a pixel in place of 9; `converter.rewrites.phase_upsample` has the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Array, Workshop, constant_shape, constant_values
from converter.passes.sum_of_squares import WIDE_FLOATS
from converter.rewrites.phase_upsample import PHASES, phase_matrices, phase_weights
from converter.surgeon import Surgery, drop_unused, replace_node
from converter.weights import WeightTable

NEAREST_2X = {
    ("asymmetric", "floor"),
    ("asymmetric", "round_prefer_floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"),
    ("pytorch_half_pixel", "round_prefer_ceil"),
}
"""Coordinate and rounding modes that copy pixel i to 2i and 2i + 1 when the scale is 2."""


def phase_convolutions(surgery: Surgery, shop: Workshop) -> int:
    """Replace every pair of Resize and Conv that qualifies.

    Preconditions:
        1. The Resize doubles H and W of a rank-4 tensor and nothing else, by nearest pixel.
        2. Only the Conv reads its result, which is no output of the graph.
        3. The Conv is 3x3, stride 1, dilation 1, padded by 1 on all sides.
        4. Its weights are constants of fp32 or double, or narrower ones behind a Cast to these:
           a sum of weights in fp16 or bf16 is rounded once more, and so is another kernel.

    Returns:
        How many were replaced.
    """
    replaced = 0
    for graph in surgery.graphs():
        outputs = {t.name for t in graph.outputs}
        for resize in [n for n in graph.nodes if n.op == "Resize"]:
            conv = _qualifying_conv(resize, outputs, shop.weights)
            if conv is None or not any(conv is n for n in graph.nodes):
                continue
            _replace(surgery, shop, graph, resize, conv)
            drop_unused(graph, resize, outputs)
            replaced += 1
    return replaced


def _qualifying_conv(resize: gs.Node, outputs: set[str], weights: WeightTable) -> gs.Node | None:
    big = resize.outputs[0]
    if big.name in outputs or len(big.outputs) != 1 or big.outputs[0].op != "Conv":
        return None
    conv = big.outputs[0]
    if conv.inputs[0] is not big or conv.inputs[1].dtype not in WIDE_FLOATS:
        return None
    shape = constant_shape(_root(conv.inputs[1]))
    if shape is None or len(shape) != 4 or shape[2:] != (3, 3):
        return None
    plain = (
        list(conv.attrs.get("strides") or [1, 1]) == [1, 1]
        and list(conv.attrs.get("dilations") or [1, 1]) == [1, 1]
        and _pads_one(conv)
    )
    return conv if plain and _is_nearest_2x(resize, weights) else None


def _root(w: gs.Tensor) -> gs.Tensor:
    """The tensor that a Cast makes `w` of, if one does."""
    cast = w.inputs[0] if len(w.inputs) == 1 else None
    return cast.inputs[0] if cast is not None and cast.op == "Cast" else w


def _pads_one(conv: gs.Node) -> bool:
    mode = conv.attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return list(conv.attrs.get("pads") or [0] * 4) == [1, 1, 1, 1]
    return mode in ("SAME_UPPER", "SAME_LOWER")


def _is_nearest_2x(resize: gs.Node, weights: WeightTable) -> bool:
    attributes = resize.attrs
    modes = (
        attributes.get("coordinate_transformation_mode", "half_pixel"),
        attributes.get("nearest_mode", "round_prefer_floor"),
    )
    if attributes.get("mode", "nearest") != "nearest" or modes not in NEAREST_2X:
        return False
    if attributes.get("axes") or len(resize.inputs) != 3:
        return False
    scales = constant_values(resize.inputs[2], weights)
    return scales is not None and scales.tolist() == [1, 1, 2, 2]


def _replace(
    surgery: Surgery, shop: Workshop, graph: gs.Graph, resize: gs.Node, conv: gs.Node
) -> None:
    x, y, w = resize.inputs[0], conv.outputs[0], conv.inputs[1]
    kernels, nodes = _kernels(surgery, shop, w, y.name)
    small = list(y.shape) if y.shape is not None else None
    if small is not None:
        small = [*small[:2], *(d // 2 if isinstance(d, int) else None for d in small[2:])]
    parts: list[gs.Tensor] = []
    for phase, weight in zip(PHASES, kernels, strict=True):
        name = surgery.unique_name(f"{y.name}/phase{phase.row}{phase.column}")
        attributes = {
            "kernel_shape": [2, 2],
            "pads": list(phase.pads),
            "group": int(conv.attrs.get("group", 1)),
        }
        parts.append(gs.Variable(name, y.dtype, small))
        inputs = [x, weight, *conv.inputs[2:]]
        nodes.append(gs.Node("Conv", name, attributes, inputs=inputs, outputs=parts[-1:]))
    joined = gs.Variable(surgery.unique_name(f"{y.name}/phases"), y.dtype)
    nodes.append(gs.Node("Concat", joined.name, {"axis": 1}, inputs=parts, outputs=[joined]))
    last = gs.Node(
        "DepthToSpace",
        surgery.unique_name(f"{y.name}/depth_to_space"),
        {"blocksize": 2, "mode": "DCR"},
        inputs=[joined],
    )
    replace_node(graph, conv, [*nodes, last])
    last.outputs.append(y)


def _kernels(
    surgery: Surgery, shop: Workshop, w: gs.Tensor, name: str
) -> tuple[list[gs.Tensor], list[gs.Node]]:
    """The kernel (O, C/group, 2, 2) of each phase, and the nodes that make them, if any do.

    Of a constant they are constants, made when the file is written. Narrow weights behind a Cast
    stay as they are in the file, and are added by nodes on constants, which onnxruntime computes
    while loading.
    """
    root = _root(w)
    shape = constant_shape(root)
    assert shape is not None
    small = (*shape[:2], 2, 2)
    if root is w:

        def kernel(index: int) -> Callable[[Array], Array]:
            return lambda values: np.asarray(phase_weights(values)[index])

        return [
            shop.derived(w, f"phase{index}", small, kernel(index)) for index in range(len(PHASES))
        ], []
    nodes: list[gs.Node] = []

    def add(op: str, inputs: list[gs.Tensor], part: str) -> gs.Tensor:
        output = gs.Variable(surgery.unique_name(f"{name}/{part}"), w.dtype)
        nodes.append(gs.Node(op, output.name, inputs=inputs, outputs=[output]))
        return output

    flat = add("Reshape", [w, shop.ints([-1, 9])], "taps")
    kernels = []
    for matrix, phase in zip(phase_matrices(w.dtype), PHASES, strict=True):
        part = f"kernel{phase.row}{phase.column}"
        product = add("MatMul", [flat, shop.array(matrix, "phase_matrix")], f"{part}_flat")
        kernels.append(add("Reshape", [product, shop.ints(small)], part))
    return kernels, nodes
