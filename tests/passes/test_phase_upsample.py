"""Resize and Conv against the four phase convolutions that replace them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.constants import Workshop
from converter.model_file import load
from converter.output_files import pending_output
from converter.passes.phase_upsample import phase_convolutions
from converter.surgeon import close_model, open_model

RNG = np.random.default_rng(5)
C, O, H, W = 4, 6, 5, 7  # noqa: E741


def model(
    modes: dict[str, str],
    *,
    scales: tuple[float, ...] = (1, 1, 2, 2),
    plane: tuple = (H, W),
    group: int = 1,
    kernel: int = 3,
    conv: dict | None = None,
    extra_output: bool = False,
    elem_type: int = TensorProto.FLOAT,
    stored: int | None = None,
) -> onnx.ModelProto:
    """x -> Resize -> Conv -> y of one type; weights `stored` in another are cast to it."""
    weight = RNG.standard_normal((O, C // group, kernel, kernel)).astype(np.float32)
    attributes = {"pads": [1, 1, 1, 1], "group": group, **(conv or {})}
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], mode="nearest", **modes),
        helper.make_node("Conv", ["big", "w", "b"], ["y"], **attributes),
    ]
    if stored is not None:
        nodes.insert(0, helper.make_node("Cast", ["w"], ["wide"], to=elem_type))
        nodes[-1].input[1] = "wide"
    outputs = [helper.make_tensor_value_info("y", elem_type, [2, O, "h", "w"])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("big", elem_type, [2, C, "bh", "bw"]))
    graph = helper.make_graph(
        nodes,
        "upsample",
        [helper.make_tensor_value_info("x", elem_type, [2, C, *plane])],
        outputs,
        [
            numpy_helper.from_array(np.array(scales, np.float32), "scales"),
            numpy_helper.from_array(weight.astype(dtype_of(stored or elem_type)), "w"),
            numpy_helper.from_array(RNG.standard_normal(O).astype(dtype_of(elem_type)), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


dtype_of = helper.tensor_dtype_to_np_dtype


def apply(proto: onnx.ModelProto, folder: Path) -> tuple[int, Counter]:
    onnx.save(proto, folder / "in.onnx")
    loaded = load(folder / "in.onnx")
    surgery = open_model(loaded.proto)
    count = phase_convolutions(surgery, Workshop(surgery, loaded.weights))
    close_model(surgery)
    with pending_output(folder / "out.onnx") as pending:
        pending.write(loaded, external=False)
        pending.commit()
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    return count, Counter(n.op_type for n in onnx.load(folder / "out.onnx").graph.node)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[
        0
    ]


FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
QUALIFYING = [
    FLOOR,
    {"coordinate_transformation_mode": "asymmetric"},
    {},
    {"nearest_mode": "round_prefer_ceil"},
    {"coordinate_transformation_mode": "pytorch_half_pixel"},
]


@pytest.mark.parametrize("plane", [(H, W), ("H", "W")])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("modes", QUALIFYING)
def test_equal_with_four_small_convs(modes: dict, group: int, plane: tuple, tmp_path: Path) -> None:
    count, ops = apply(model(modes, group=group, plane=plane), tmp_path)
    assert count == 1
    assert ops == {"Conv": 4, "Concat": 1, "DepthToSpace": 1}
    x = RNG.standard_normal((2, C, H, W)).astype(np.float32)
    expected, actual = run(tmp_path / "in.onnx", x), run(tmp_path / "out.onnx", x)
    assert actual.shape == expected.shape
    # Sums of up to 36 products of order 1, re-associated.
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("stored", [TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_narrow_weights_are_added_in_fp32_when_the_session_is_made(
    stored: int, group: int, tmp_path: Path
) -> None:
    count, ops = apply(model(FLOOR, group=group, stored=stored), tmp_path)
    assert count == 1
    assert ops == {
        "Cast": 1, "Reshape": 5, "MatMul": 4, "Conv": 4, "Concat": 1, "DepthToSpace": 1,
    }  # fmt: skip
    sizes = {t.name: len(t.raw_data) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert sizes["w"] == 2 * O * C // group * 9
    assert sum(sizes.values()) < sizes["w"] + 4 * O + 1000  # Nothing of the weights' size besides.
    x = RNG.standard_normal((2, C, H, W)).astype(np.float32)
    expected, actual = run(tmp_path / "in.onnx", x), run(tmp_path / "out.onnx", x)
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


LEFT_ALONE = {
    "weights whose sums would be rounded": {"modes": FLOOR, "elem_type": TensorProto.FLOAT16},
    "another phase of pixels": {"modes": FLOOR | {"nearest_mode": "ceil"}},
    "scale 3": {"modes": FLOOR, "scales": (1, 1, 3, 3)},
    "rows only": {"modes": FLOOR, "scales": (1, 1, 2, 1)},
    "stride": {"modes": FLOOR, "conv": {"strides": [2, 2]}},
    "dilation": {"modes": FLOOR, "conv": {"dilations": [2, 2], "pads": [2, 2, 2, 2]}},
    "pads": {"modes": FLOOR, "conv": {"pads": [1, 1, 1, 0]}},
    "no padding": {"modes": FLOOR, "conv": {"pads": [0, 0, 0, 0]}},
    "kernel": {"modes": FLOOR, "kernel": 5, "conv": {"pads": [2, 2, 2, 2]}},
    "another reader": {"modes": FLOOR, "extra_output": True},
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str, tmp_path: Path) -> None:
    arguments = dict(LEFT_ALONE[name])
    count, ops = apply(model(arguments.pop("modes"), **arguments), tmp_path)
    assert count == 0
    assert ops == {"Resize": 1, "Conv": 1}


def test_left_alone_where_two_convs_read_the_large_frames(tmp_path: Path) -> None:
    proto = model(FLOOR)
    second = helper.make_node("Conv", ["big", "w", "b"], ["z"], pads=[1, 1, 1, 1])
    proto.graph.node.append(second)
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, O, "h", "w"])
    proto.graph.output.append(z)
    count, ops = apply(proto, tmp_path)
    assert count == 0
    assert ops == {"Resize": 1, "Conv": 2}
