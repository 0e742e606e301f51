import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from converter.constants import Workshop
from converter.passes.edge_pads import MOST, spell_out_edge_pads
from converter.surgeon import close_model, open_model
from converter.weights import WeightTable
from tests.small_models import draw, from_array, model, value

SHAPE = (2, 3, 4, 5)


def pad(pads, axes=None, *, mode="edge", opset=18, dims=SHAPE, constant=True, dtype=np.float32):
    """x -> Pad -> y; without `constant` the amounts are an input."""
    inputs = ["x", "pads", "", *(["axes"] if axes is not None else [])]
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    amounts = np.array(pads, np.int64)
    given = [value("pads", [amounts.size], TensorProto.INT64)]
    constants = [from_array(amounts, "pads")] if constant else []
    if axes is not None:
        constants.append(from_array(np.array(axes, np.int64), "axes"))
    return model(
        [helper.make_node("Pad", inputs, ["y"], name="pad", mode=mode)],
        [value("x", dims, elem_type), *([] if constant else given)],
        [value("y", None if dims is None else [None] * len(dims), elem_type)],
        constants,
        opset=opset,
    )


def spelled(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    surgery = open_model(copy)
    count = spell_out_edge_pads(surgery, Workshop(surgery, WeightTable()))
    close_model(surgery)
    if copy.graph.input[0].type.tensor_type.HasField("shape"):  # Else it is inside another graph.
        onnx.checker.check_model(copy, full_check=True)
    return count, copy


@pytest.mark.parametrize(
    ("pads", "axes", "widths"),
    [
        ([0, 0, 1, 2, 0, 0, 3, 0], None, [(0, 0), (0, 0), (1, 3), (2, 0)]),
        ([1, 2], [2], [(0, 0), (0, 0), (1, 2), (0, 0)]),
        ([2, 1, 0, 1], [-1, 1], [(0, 0), (1, 1), (0, 0), (2, 0)]),
        ([1] * 8, None, [(1, 1)] * 4),
        ([MOST, 0], [3], [(0, 0)] * 3 + [(MOST, 0)]),
        ([0] * 8, None, [(0, 0)] * 4),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_edges_are_repeated_axis_by_axis(pads, axes, widths, dtype):
    count, changed = spelled(pad(pads, axes, dtype=dtype))
    assert count == 1
    assert {n.op_type for n in changed.graph.node} <= {"Slice", "Concat", "Identity"}
    x = draw(SHAPE, 1).astype(dtype)
    [y] = ReferenceEvaluator(changed).run(None, {"x": x})
    np.testing.assert_array_equal(y, np.pad(x, widths, mode="edge"))
    assert y.dtype == dtype


@pytest.mark.parametrize(
    "proto",
    [
        pad([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"),
        pad([0, 0, 1, 1, 0, 0, 1, 1], mode="constant"),
        pad([0, 0, -1, 1, 0, 0, 1, 1]),
        pad([MOST + 1, 0], [3]),
        pad([0, 0, 1, 1, 0, 0, 1, 1], constant=False),
        pad([1, 1], [-1], dims=None),
    ],
    ids=["reflect", "constant", "crops", "too many", "at run time", "of unknown rank"],
)
def test_what_does_not_qualify_stays(proto):
    count, changed = spelled(proto)
    assert count == 0
    assert [n.op_type for n in changed.graph.node] == ["Pad"]


def test_an_unknown_rank_does_where_every_axis_counts_from_the_front():
    count, changed = spelled(pad([1, 2], [1], dims=None))
    assert count == 1
    x = draw(SHAPE, 1)
    [y] = ReferenceEvaluator(changed).run(None, {"x": x})
    np.testing.assert_array_equal(y, np.pad(x, [(0, 0), (1, 2), (0, 0), (0, 0)], mode="edge"))
