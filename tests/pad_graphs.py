"""A Pad in front of a Conv3D: those that may vanish into its pads and those that must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import helper, numpy_helper

from tests.conv_case import Answer, ConvCase, Parts, Run, Trial, open_output, video_input
from tests.weight_sources import bias


@dataclass(frozen=True)
class PadCase:
    """`begin` and `end` are of `axes`, or of all five axes where that is None."""

    begin: tuple[int, ...] = (0, 0, 2, 0, 0)
    end: tuple[int, ...] = (0, 0, 0, 0, 0)
    axes: tuple[int, ...] | None = None
    mode: str | None = "constant"
    value: float | None = 0.0
    given_by: str = "initializer"
    """Where `pads` and `value` come from: "initializer", "constant" (a node), "input"."""
    seen_by: str = "conv"
    """Who else reads the padded tensor: "output", "body" (an If's), or only the "conv"."""
    conv: ConvCase = field(default_factory=ConvCase)
    vanishes: bool = True
    """Whether a constant-zero Pad is absorbed here."""

    @property
    def opset(self) -> int:
        return max(self.conv.opset, 18 if self.axes is not None else 11)

    def apply(self, x: np.ndarray) -> np.ndarray:
        begin, end = [0] * 5, [0] * 5
        for axis, first, last in zip(self.axes or range(5), self.begin, self.end, strict=True):
            begin[axis], end[axis] = first, last
        kept = tuple(
            slice(max(0, -first), n - max(0, -last))
            for first, last, n in zip(begin, end, x.shape, strict=True)
        )
        widths = [(max(0, first), max(0, last)) for first, last in zip(begin, end, strict=True)]
        if self.mode in (None, "constant"):
            return np.pad(x[kept], widths, constant_values=self.value or 0)
        return np.pad(x[kept], widths, mode=self.mode)


def padded(case: PadCase) -> Trial:
    conv = case.conv
    parts = Parts(inputs=[video_input(conv)])
    give: Callable[[str, np.ndarray], str] = {
        "initializer": parts.hold,
        "input": parts.ask,
        "constant": lambda name, value: parts.add(
            "Constant", [], name, value=numpy_helper.from_array(value)
        ),
    }[case.given_by]
    inputs = ["x", give("pads", np.array(case.begin + case.end))]
    if case.value is not None:
        inputs.append(give("value", np.array(case.value, conv.dtype)))
    if case.axes is not None:
        inputs += [""] * (3 - len(inputs)) + [parts.hold("axes", np.array(case.axes))]
    attributes = {} if case.mode is None else {"mode": case.mode}
    parts.add("Pad", inputs, "padded", **attributes)

    seen = case.apply(conv.draw((conv.batch, conv.channels, *conv.size), 10))
    conv = replace(conv, in_per_group=seen.shape[1] // conv.groups)
    w = conv.draw(conv.weight_shape, 1)
    parts.hold("w", w)
    b = bias(conv, parts)
    parts.nodes.append(conv.node(("padded", "w", "b")))

    runs = []
    for index, shape in enumerate(case.conv.input_shapes()):
        x = conv.draw(shape, 10 + index)
        seen = case.apply(x)
        answers = {"y": conv.answer(seen, w, b)}
        if case.seen_by == "output":
            answers["padded"] = Answer(seen.astype(np.float64))
        if case.seen_by == "body":
            answers["doubled"] = Answer(2 * seen.astype(np.float64))
        runs.append(Run(parts.feed | {"x": x}, answers))
    if case.seen_by == "body":
        _double_in_a_body(parts, conv.elem_type)
    for name in runs[0].answers:
        shapes = [run.answers[name].value.shape for run in runs]
        parts.outputs.append(open_output(conv, name, shapes))
    return Trial(parts.model(case.opset), tuple(runs))


def _double_in_a_body(parts: Parts, elem_type: int) -> None:
    """doubled = padded + padded, in an If whose bodies see the tensor only as an outer name."""

    def body(name: str) -> object:
        out = helper.make_tensor_value_info(name, elem_type, [None] * 5)
        return helper.make_graph(
            [helper.make_node("Add", ["padded", "padded"], [name])], name, [], [out]
        )

    parts.hold("always", np.array(True))
    parts.add("If", ["always"], "doubled", then_branch=body("yes"), else_branch=body("no"))


_SPACE = (0, 0, 0, 1, 2)
PADS: dict[str, PadCase] = {
    # Absorbed.
    "causal": PadCase(),
    "causal_after_all_pads": PadCase((0, 0, 2, 1, 1), (0, 0, 0, 1, 1)),
    "asymmetric": PadCase((0, 0, 1, 0, 2), (0, 0, 3, 1, 0)),
    "nothing_padded": PadCase((0,) * 5, (0,) * 5),
    "mode_not_given": PadCase(mode=None),
    "value_not_given": PadCase(value=None),
    "value_minus_zero": PadCase(value=-0.0),
    "from_constant_nodes": PadCase(given_by="constant"),
    "axes": PadCase((2, 1), (0, 1), axes=(2, 3)),
    "axes_out_of_order": PadCase((2, 1), (1, 0), axes=(4, 2)),
    "axes_negative": PadCase((2, 1, 0), (0, 1, 2), axes=(-3, -1, -2)),
    "axes_and_no_value": PadCase((2,), (0,), axes=(2,), value=None),
    "conv_pads_too": PadCase(conv=ConvCase(pads=(0, 1, 2, 1, 1, 0))),
    "conv_valid": PadCase((0, 0, 2, 1, 0), (0, 0, 0, 1, 1), conv=ConvCase(auto_pad="VALID")),
    "strided": PadCase((0, 0, 2, 1, 0), conv=ConvCase(strides=(2, 2, 1), dilations=(1, 1, 2))),
    "dynamic": PadCase((0, 0, 2, 1, 1), (0, 0, 0, 1, 1), conv=ConvCase(dynamic="NTHW")),
    "pointwise": PadCase((0, 0, 0, 1, 1), (0, 0, 0, 1, 1), conv=ConvCase(kernel=(1, 3, 3))),
    "pointwise_in_time": PadCase((0, 0, 2, 0, 1), conv=ConvCase(kernel=(1, 2, 2))),
    "temporal": PadCase((0, 0, 2, 0, 0), conv=ConvCase(kernel=(3, 1, 1))),
    "temporal_in_space": PadCase((0, 0, 2, 1, 0), conv=ConvCase(kernel=(3, 1, 1))),
    "half": PadCase(conv=ConvCase(dtype="float16")),
    # Not absorbed.
    "read_twice": PadCase(seen_by="output", vanishes=False),
    "read_in_a_body": PadCase(seen_by="body", vanishes=False),
    "value_one": PadCase(value=1.0, vanishes=False),
    "value_one_in_space": PadCase(_SPACE, value=1.0, vanishes=False),
    "reflect": PadCase((0, 0, 2, 1, 0), (0, 0, 0, 1, 2), mode="reflect", vanishes=False),
    "edge": PadCase((0, 0, 2, 1, 0), (0, 0, 0, 1, 2), mode="edge", vanishes=False),
    "wrap": PadCase(mode="wrap", conv=ConvCase(opset=19), vanishes=False),
    "cut_in_time": PadCase((0, 0, -1, 0, 0), vanishes=False),
    "cut_at_the_end": PadCase((0, 0, 2, 0, 0), (0, 0, -1, 0, -1), vanishes=False),
    "on_channels": PadCase((0, 1, 0, 0, 0), (0, 1, 2, 0, 0), vanishes=False),
    "on_batch": PadCase((1, 0, 2, 0, 0), (1, 0, 0, 0, 0), vanishes=False),
    "conv_same": PadCase(conv=ConvCase(auto_pad="SAME_UPPER", strides=(2, 2, 1)), vanishes=False),
    "at_run_time": PadCase(given_by="input", vanishes=False),
}
