"""One Conv3D as data, the answer that the float64 oracle gives, and the pieces of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests import oracle
from tests.execute import make_model

Triple = tuple[int, int, int]
AXES = "NCTHW"


@dataclass(frozen=True)
class ConvCase:
    """One Conv3D. An attribute that is None is left out of the node."""

    batch: int = 1
    groups: int = 1
    in_per_group: int = 2
    out_per_group: int = 2
    size: Triple = (5, 5, 6)
    kernel: Triple = (3, 3, 3)
    strides: Triple | None = None
    dilations: Triple | None = None
    pads: tuple[int, int, int, int, int, int] | None = None
    auto_pad: str | None = None
    states_kernel: bool = True
    bias: bool = True
    dtype: str = "float32"
    opset: int = 18
    dynamic: str = ""
    """The axes of NTHW that the graph leaves open."""
    weights: str = "initializer"
    """Where the weights come from: a key of weight_sources.WEIGHT_SOURCES."""
    bias_from: str = "initializer"
    """Or "constant", "input", "computed"."""
    head: str = "input"
    """What feeds the Conv: the graph's input, or an op."""
    tail: str = "output"
    """Where its result goes: the graph's output, a Relu, or both."""
    integers: bool = True
    """Small whole numbers, whose sums are exact in any order: the tolerance is then zero."""
    seed: int = 0

    @property
    def channels(self) -> int:
        return self.groups * self.in_per_group

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.groups * self.out_per_group, self.in_per_group, *self.kernel)

    @property
    def elem_type(self) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

    def attributes(self) -> dict[str, object]:
        given = {
            "kernel_shape": self.kernel if self.states_kernel else None,
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": self.pads,
            "auto_pad": self.auto_pad,
            "group": self.groups,
        }
        return {name: value for name, value in given.items() if value is not None}

    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shapes to run at: two where an axis is open."""
        first = (self.batch, self.channels, *self.size)
        more = {"N": 1, "T": 3, "H": 1, "W": 2}
        second = tuple(
            n + more[axis] if axis in self.dynamic else n
            for axis, n in zip(AXES, first, strict=True)
        )
        return [first] if second == first else [first, second]

    def draw(self, shape: Sequence[int], seed: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, seed))
        if self.integers:
            return rng.integers(-2, 3, shape).astype(self.dtype)
        return rng.standard_normal(shape).astype(self.dtype)

    def node(
        self, inputs: Sequence[str] = ("x", "w", "b"), output: str = "y", name: str = "conv"
    ) -> NodeProto:
        inputs = list(inputs) if self.bias else list(inputs[:2])
        return helper.make_node("Conv", inputs, [output], name=name, **self.attributes())

    def answer(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> Answer:
        """What this Conv gives in float64, and how far a right answer may be from it."""
        attributes = self.attributes()
        magnitude = oracle.conv(
            np.abs(x), np.abs(w), None if b is None else np.abs(b), **attributes
        )
        value = oracle.conv(x, w, b, **attributes)
        return Answer(value, self._tolerance(magnitude))

    def _tolerance(self, magnitude: np.ndarray) -> np.ndarray:
        """The bound that any order of summation keeps, from the sum of absolute products.

        A sum of n rounded products is off by at most n units of roundoff of `magnitude`.
        onnxruntime computes float16 in float32 and rounds each node's result: the taps of one
        output are at most Kt such results and Kt - 1 sums of them, and the bias is one more.
        """
        unit = float(np.finfo(self.dtype).eps) / 2
        if self.integers and magnitude.max() <= 0.25 / unit:
            return np.zeros_like(magnitude)
        terms = self.in_per_group * int(np.prod(self.kernel)) + self.kernel[0] + 2
        if self.dtype == "float16":
            return (2 * self.kernel[0] + 2) * unit * magnitude + terms * 2.0**-24 * magnitude
        return terms * unit * magnitude


@dataclass(frozen=True)
class Answer:
    value: np.ndarray
    tolerance: np.ndarray | float = 0.0


@dataclass(frozen=True)
class Run:
    """One feed and what each output must be."""

    feed: Mapping[str, np.ndarray]
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Trial:
    model: ModelProto
    runs: tuple[Run, ...]


@dataclass
class Parts:
    """A graph in the making."""

    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    feed: dict[str, np.ndarray] = field(default_factory=dict)

    def hold(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ask(self, name: str, value: np.ndarray) -> str:
        """A graph input of fixed shape, always fed with this value."""
        elem_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, value.shape))
        self.feed[name] = value
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def model(self, opset: int, **more: object) -> ModelProto:
        graph = helper.make_graph(self.nodes, "small", self.inputs, self.outputs, self.initializers)
        return make_model(graph, opset, **more)


def video_input(case: ConvCase, name: str = "x") -> ValueInfoProto:
    first = (case.batch, case.channels, *case.size)
    shape = [axis if axis in case.dynamic else n for axis, n in zip(AXES, first, strict=True)]
    return helper.make_tensor_value_info(name, case.elem_type, shape)


def open_output(case: ConvCase, name: str, shapes: Sequence[tuple[int, ...]]) -> ValueInfoProto:
    """An output declared with the sizes that are the same in every run, the others left open."""
    shape = [
        ("N" if case.dynamic and axis == "N" else f"{name}_{axis}")
        if len(set(sizes)) > 1
        else sizes[0]
        for axis, sizes in zip(AXES, zip(*shapes, strict=True), strict=True)
    ]
    return helper.make_tensor_value_info(name, case.elem_type, shape)
