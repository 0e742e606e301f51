"""Random graphs of the operators that decoders are made of, for comparing partitioners.

They are meant to be partitioned, not run: shapes fit as far as shape inference can tell.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
LIKELY = (0.55, 0.2, 0.15, 0.1)

# Operator -> (opset from which it is used here, attributes). Each keeps type and shape.
UNARY = {
    "Abs": (13, {}),
    "Relu": (13, {}),
    "Sigmoid": (13, {}),
    "Softmax": (13, {}),
    "Mish": (18, {}),
    "HardSwish": (14, {}),
    "Gelu": (20, {}),
    "Identity": (13, {}),
    "Elu": (13, {}),
    "Sqrt": (13, {}),
    "Tanh": (13, {}),
    "ReduceMax": (13, {"keepdims": 1}),
    "GlobalAveragePool": (13, {}),
}
BINARY = ("Add", "Mul", "Div", "Sub", "Pow", "Max", "Min")


def random_graph(seed: int) -> onnx.ModelProto | None:
    """A graph of some 30 nodes; None where ONNX finds it invalid (a type that an opset lacks)."""
    maker = _Maker(np.random.default_rng(seed))
    model = maker.make()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return model


class _Maker:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.opset = int(rng.choice([13, 15, 17, 18, 18, 18, 19, 20, 21, 22]))
        # Without what MIGraphX does not take at all.
        self.tame = bool(self.rng.random() < 0.4)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.videos = [("x", TensorProto.FLOAT)]  # (name, type): all (N, 4, H, W)
        self.shapes: list[str] = []  # int64, 1-D, at run time

    def make(self) -> onnx.ModelProto:
        for _ in range(30):
            step = self.rng.choice(
                [self.unary, self.binary, self.conv, self.cast, self.move, self.shape_work],
                p=[0.2, 0.15, 0.15, 0.1, 0.2, 0.2],
            )
            step()
        dims = ["N", 4, "H", "W"] if self.rng.random() < 0.8 else [1, 4, 8, 8]
        outputs = [(n, t) for n, t in self.videos if n != "x"][-2:]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
                helper.make_tensor_value_info("size", TensorProto.INT64, [4]),
            ],
            [helper.make_tensor_value_info(n, t, [None] * 4) for n, t in outputs]
            + [
                helper.make_tensor_value_info(n, TensorProto.INT64, [None])
                for n in self.shapes[-1:]
            ],
            self.initializers,
        )
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"n{len(self.nodes)}_{op}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_y"], name=name, **attributes))
        return f"{name}_y"

    def constant(self, values: object, elem_type: int) -> str:
        name = f"c{len(self.initializers)}"
        array = np.asarray(values, helper.tensor_dtype_to_np_dtype(elem_type))
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, TensorProto.INT64)

    def pick(self) -> tuple[str, int]:
        return self.videos[int(self.rng.integers(len(self.videos)))]

    def unary(self) -> None:
        x, kind = self.pick()
        op = str(self.rng.choice(self.unary_operators()))
        y = self.node(op, [x], **UNARY[op][1])
        if op in ("ReduceMax", "GlobalAveragePool"):
            y = self.node("Add", [x, y])
        self.videos.append((y, kind))

    def unary_operators(self) -> list[str]:
        return [
            op
            for op, (since, _) in UNARY.items()
            if since <= self.opset and not (op == "Mish" and self.tame)
        ]

    def binary(self) -> None:
        x, kind = self.pick()
        others = [name for name, other in self.videos if other == kind]
        other = str(self.rng.choice([*others, self.constant(2, kind)]))
        self.videos.append((self.node(str(self.rng.choice(BINARY)), [x, other]), kind))

    def conv(self) -> None:
        x, kind = self.pick()
        if self.rng.random() < 0.5:
            weight = self.constant(self.rng.random((4, 4, 3, 3)), kind)
            y = self.node("Conv", [x, weight], pads=[1, 1, 1, 1])
        else:
            scale = self.constant(np.ones(4), kind)
            y = self.node("InstanceNormalization", [x, scale, scale])
        self.videos.append((y, kind))

    def cast(self) -> None:
        x, _ = self.pick()
        kind = int(self.rng.choice(FLOATS, p=LIKELY))
        self.videos.append((self.node("Cast", [x], to=kind), kind))

    def move(self) -> None:
        x, kind = self.pick()
        shape = str(self.rng.choice([*self.full_shapes(), self.ints(0, 0, 0, 0), *self.given()]))
        mode = "constant" if self.tame else "edge"
        y = [
            lambda: self.node("Transpose", [x], perm=[0, 1, 3, 2]),
            lambda: self.node("Reshape", [x, shape]),
            lambda: self.node("Expand", [x, shape]),
            lambda: self.node("Pad", [x, self.ints(0, 0, 1, 1, 0, 0, -1, -1)], mode=mode),
            lambda: self.node("Concat", [x, x], axis=2),
            lambda: self.node("Slice", [x, self.ints(0), self.ints(4), self.ints(3)]),
            lambda: self.node("Resize", [x, "", self.constant([1, 1, 2, 2], TensorProto.FLOAT)]),
            lambda: self.node("Unsqueeze", [self.node("Squeeze", [x, self.ints(0)]), self.ints(0)]),
            lambda: self.node("Tile", [x, self.ints(1, 1, 2, 2)]),
        ][int(self.rng.integers(9))]()
        self.videos.append((y, kind))

    def shape_work(self) -> None:
        if not self.shapes or self.rng.random() < 0.3:
            self.shapes.append(self.node("Shape", [self.pick()[0]]))
            return
        shape = str(self.rng.choice([*self.shapes, *self.given()]))
        y = [
            lambda: self.node("Gather", [shape, self.ints(0, 1)]),
            lambda: self.node("Slice", [shape, self.ints(0), self.ints(2)]),
            lambda: self.node("Concat", [shape, self.ints(-1)], axis=0),
            lambda: self.node("Concat", [shape, str(self.rng.choice(self.shapes))], axis=0),
            lambda: self.node("Mul", [shape, self.ints(2)]),
            lambda: self.node("Div", [shape, str(self.rng.choice([*self.shapes, self.ints(2)]))]),
            lambda: self.node("Reshape", [shape, self.ints(-1)]),
            lambda: self.node("Cast", [shape], to=TensorProto.INT64),
            lambda: self.node("Add", [shape, self.ints(*range(150))]),
            lambda: self.node("Range", [self.first(shape), self.first("size"), self.one()]),
            lambda: self.node("Abs", [shape]),
        ][int(self.rng.integers(11))]()
        self.shapes.append(y)

    def first(self, shape: str) -> str:
        return self.node("Gather", [shape, self.constant(0, TensorProto.INT64)])

    def one(self) -> str:
        return self.constant(1, TensorProto.INT64)

    def given(self) -> list[str]:
        return [] if self.tame else ["size"]

    def full_shapes(self) -> list[str]:
        """Results of Shape nodes: they fit any of the video tensors as far as is known."""
        return [n.output[0] for n in self.nodes if n.op_type == "Shape"]
