"""Conv3D inside the bodies of If, Loop and Scan, at any depth; answers by the oracle.

Everything is small whole numbers, so that two convolutions in a row are still exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests.conv_case import Answer, ConvCase, Parts, Run, Trial, open_output, video_input

# Keeps C, T, H and W, so that a body can apply it again to its own result. The weights take more
# than a kilobyte: small and large tensors go different ways through a converter.
KEEPING = ConvCase(in_per_group=4, out_per_group=4, pads=(1, 1, 1, 1, 1, 1), size=(3, 4, 5))
# Kt = 1 and Kh = Kw = 1: bodies see the other strategies of "auto" too.
KEEPING_POINTWISE = ConvCase(kernel=(1, 3, 3), pads=(0, 1, 1, 0, 1, 1), size=(3, 4, 5))
KEEPING_TEMPORAL = ConvCase(kernel=(3, 1, 1), pads=(2, 0, 0, 0, 0, 0), size=(3, 4, 5))
KEEPING_OPEN = ConvCase(pads=(1, 1, 1, 1, 1, 1), size=(3, 4, 5), batch=2, dynamic="NTHW")


def _weights(case: ConvCase, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    # -1, 0 and 1: the second convolution's sums stay whole numbers that float32 holds.
    return np.sign(case.draw(case.weight_shape, seed)), case.draw(case.weight_shape[:1], seed + 50)


def _apply(case: ConvCase, x: np.ndarray, weights: Sequence[tuple]) -> np.ndarray:
    for w, b in weights:
        x = case.answer(x, w, b).value
    assert np.abs(x).max() < 2**24
    return x


def _scalar(name: str, elem_type: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, [])


def _body(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    held: dict[str, np.ndarray] | None = None,
) -> GraphProto:
    tensors = [numpy_helper.from_array(value, key) for key, value in (held or {}).items()]
    return helper.make_graph(nodes, name, inputs, outputs, tensors)


def _finish(
    parts: Parts, case: ConvCase, answer: Callable[[np.ndarray], list[tuple[dict, np.ndarray]]]
) -> Trial:
    """Runs at every size of the case; `answer` gives feeds beside x, and y, for one x."""
    runs = []
    for index, shape in enumerate(case.input_shapes()):
        x = case.draw(shape, 10 + index)
        for feed, y in answer(x):
            runs.append(Run(parts.feed | feed | {"x": x}, {"y": Answer(y)}))
    if not parts.outputs:
        parts.outputs.append(open_output(case, "y", [run.answers["y"].value.shape for run in runs]))
    return Trial(parts.model(case.opset), tuple(runs))


def branches(case: ConvCase, *, outer: bool, constant: bool = False) -> Trial:
    """If: each branch convolves; the tensors of the two branches bear the same names.

    With `outer` the weights are the outer graph's, with `constant` they are Constant nodes.
    """
    parts = Parts(inputs=[video_input(case), _scalar("flag", TensorProto.BOOL)])
    weights = {"then": _weights(case, 1), "else": _weights(case, 2)}
    bodies = {}
    for branch, (w, b) in weights.items():
        suffix = f"_{branch}" if outer else ""
        names = {f"w{suffix}": w, f"b{suffix}": b}
        nodes, held = [case.node(("x", *names), "result")], {}
        if outer:
            for name, value in names.items():
                parts.hold(name, value)
        elif constant:
            nodes[:0] = [
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
                for name, value in names.items()
            ]
        else:
            held = names
        out = video_input(case, "result")
        bodies[f"{branch}_branch"] = _body(branch, nodes, [], [out], held)
    parts.add("If", ["flag"], "y", **bodies)
    return _finish(
        parts,
        case,
        lambda x: [
            ({"flag": np.array(flag)}, _apply(case, x, [weights[branch]]))
            for flag, branch in ((True, "then"), (False, "else"))
        ],
    )


def loop(case: ConvCase, *, outer: bool, branch_inside: bool = False) -> Trial:
    """Loop: the body convolves its own result again; with an If in it, only while i = 0."""
    parts = Parts(inputs=[video_input(case), _scalar("trips", TensorProto.INT64)])
    w, b = _weights(case)
    held = {"w": w, "b": b}
    if outer:
        for name, value in held.items():
            parts.hold(name, value)
    conv = case.node(("before", "w", "b"), "after")
    nodes = [helper.make_node("Identity", ["go"], ["goes_on"])]
    if branch_inside:
        zero = helper.make_node(
            "Constant", [], ["zero"], value=numpy_helper.from_array(np.int64(0))
        )
        inner = case.node(("before", "w", "b"), "convolved")
        other = helper.make_node("Neg", ["before"], ["negated"])
        nodes += [
            zero,
            helper.make_node("Equal", ["i", "zero"], ["first"]),
            helper.make_node(
                "If",
                ["first"],
                ["after"],
                then_branch=_body("yes", [inner], [], [video_input(case, "convolved")]),
                else_branch=_body("no", [other], [], [video_input(case, "negated")]),
            ),
        ]
    else:
        nodes.append(conv)
    body = _body(
        "body",
        nodes,
        [
            _scalar("i", TensorProto.INT64),
            _scalar("go", TensorProto.BOOL),
            video_input(case, "before"),
        ],
        [_scalar("goes_on", TensorProto.BOOL), video_input(case, "after")],
        {} if outer else held,
    )
    parts.add("Loop", ["trips", "", "x"], "y", body=body)

    def answer(x: np.ndarray) -> list[tuple[dict, np.ndarray]]:
        once = _apply(case, x, [(w, b)])
        twice = -once if branch_inside else _apply(case, x, [(w, b)] * 2)
        return [({"trips": np.array(1)}, once), ({"trips": np.array(2)}, twice)]

    return _finish(parts, case, answer)


def scan(case: ConvCase, *, outer: bool) -> Trial:
    """Scan: x is a stack of three videos, each convolved, and their running sum is kept too."""
    parts = Parts()
    w, b = _weights(case)
    held = {"w": w, "b": b}
    if outer:
        for name, value in held.items():
            parts.hold(name, value)
    body = _body(
        "body",
        [
            case.node(("video", "w", "b"), "convolved"),
            helper.make_node("Add", ["sum_in", "convolved"], ["sum_out"]),
        ],
        [video_input(case, "sum_in"), video_input(case, "video")],
        [video_input(case, "sum_out"), video_input(case, "convolved")],
        {} if outer else held,
    )
    single = video_input(case)
    dims = [d.dim_param or d.dim_value for d in single.type.tensor_type.shape.dim]
    parts.inputs += [
        single,
        helper.make_tensor_value_info("stack", case.elem_type, [3, *dims]),
    ]
    parts.nodes.append(
        helper.make_node("Scan", ["x", "stack"], ["total", "y"], body=body, num_scan_inputs=1)
    )
    parts.outputs += [
        video_input(case, "total"),
        helper.make_tensor_value_info("y", case.elem_type, [3, *dims]),
    ]
    runs = []
    for index, shape in enumerate(case.input_shapes()):
        x, stack = case.draw(shape, 10 + index), case.draw((3, *shape), 20 + index)
        y = np.stack([_apply(case, video, [(w, b)]) for video in stack])
        answers = {"total": Answer(x + y.sum(axis=0)), "y": Answer(y)}
        runs.append(Run({"x": x, "stack": stack}, answers))
    return Trial(parts.model(case.opset), tuple(runs))


def captured(case: ConvCase) -> Trial:
    """The Conv's result leaves the outer graph only through an If's body."""
    parts = Parts(inputs=[video_input(case), _scalar("flag", TensorProto.BOOL)])
    w, b = _weights(case)
    parts.hold("w", w)
    parts.hold("b", b)
    parts.nodes.append(case.node(output="convolved"))
    bodies = {
        f"{branch}_branch": _body(
            branch, [helper.make_node(op, ["convolved"], [op])], [], [video_input(case, op)]
        )
        for branch, op in (("then", "Relu"), ("else", "Neg"))
    }
    parts.add("If", ["flag"], "y", **bodies)

    def answer(x: np.ndarray) -> list[tuple[dict, np.ndarray]]:
        value = _apply(case, x, [(w, b)])
        return [
            ({"flag": np.array(True)}, np.maximum(value, 0)),
            ({"flag": np.array(False)}, -value),
        ]

    return _finish(parts, case, answer)


def shared_between_scopes(case: ConvCase) -> Trial:
    """One weight for a Conv of the outer graph and one in each branch of an If."""
    parts = Parts(inputs=[video_input(case), _scalar("flag", TensorProto.BOOL)])
    w, b = _weights(case)
    parts.hold("w", w)
    parts.hold("b", b)
    parts.nodes.append(case.node(output="once"))
    bodies = {
        "then_branch": _body(
            "then", [case.node(("once", "w", "b"), "twice")], [], [video_input(case, "twice")]
        ),
        "else_branch": _body(
            "else", [case.node(("x", "w", "b"), "again")], [], [video_input(case, "again")]
        ),
    }
    parts.add("If", ["flag"], "y", **bodies)
    return _finish(
        parts,
        case,
        lambda x: [
            ({"flag": np.array(True)}, _apply(case, x, [(w, b)] * 2)),
            ({"flag": np.array(False)}, _apply(case, x, [(w, b)])),
        ],
    )


BODIES: dict[str, Callable[[ConvCase], Trial]] = {
    "if_outer": lambda case: branches(case, outer=True),
    "if_own": lambda case: branches(case, outer=False),
    "if_constants": lambda case: branches(case, outer=False, constant=True),
    "loop_outer": lambda case: loop(case, outer=True),
    "loop_own": lambda case: loop(case, outer=False),
    "if_in_loop_outer": lambda case: loop(case, outer=True, branch_inside=True),
    "if_in_loop_own": lambda case: loop(case, outer=False, branch_inside=True),
    "scan_outer": lambda case: scan(case, outer=True),
    "scan_own": lambda case: scan(case, outer=False),
    "captured": captured,
    "shared_between_scopes": shared_between_scopes,
}
CASES: dict[str, ConvCase] = {
    "full": KEEPING,
    "pointwise": KEEPING_POINTWISE,
    "temporal": KEEPING_TEMPORAL,
    "open": KEEPING_OPEN,
}
