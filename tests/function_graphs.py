"""Conv3D inside local functions; answers by the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, helper, numpy_helper

from tests.conv_case import Answer, ConvCase, Parts, Run, Trial, open_output, video_input

DOMAIN = "small.local"
# Large enough for weights of more than a kilobyte.
CASE = ConvCase(in_per_group=4, out_per_group=4, pads=(2, 1, 1, 0, 1, 1), size=(4, 4, 5))


def _function(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[NodeProto],
    *,
    opset: int,
    attributes: Sequence[str] = (),
    defaults: Sequence[AttributeProto] = (),
) -> FunctionProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, inputs, ["y"], nodes, imports, attributes, defaults)


def _model(parts: Parts, case: ConvCase, functions: Sequence[FunctionProto]) -> ModelProto:
    return parts.model(
        case.opset, functions=functions, opset_imports=[helper.make_opsetid(DOMAIN, 1)]
    )


def _constants(**values: np.ndarray) -> list[NodeProto]:
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in values.items()
    ]


def _trial(
    parts: Parts,
    case: ConvCase,
    functions: Sequence[FunctionProto],
    answers: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> Trial:
    runs = []
    for index, shape in enumerate(case.input_shapes()):
        x = case.draw(shape, 10 + index)
        wanted = {name: Answer(value) for name, value in answers(x).items()}
        runs.append(Run(parts.feed | {"x": x}, wanted))
    for name in runs[0].answers:
        shapes = [run.answers[name].value.shape for run in runs]
        parts.outputs.append(open_output(case, name, shapes))
    return Trial(_model(parts, case, functions), tuple(runs))


def constants_inside(case: ConvCase) -> Trial:
    """Called twice, on x and on -x; the weights are Constant nodes of the function."""
    w, b = case.draw(case.weight_shape, 1), case.draw(case.weight_shape[:1], 2)
    body = [*_constants(w=w, b=b), case.node()]
    parts = Parts(inputs=[video_input(case)])
    parts.add("Convolve", ["x"], "y1", domain=DOMAIN)
    parts.add("Convolve", [parts.add("Neg", ["x"], "negated")], "y2", domain=DOMAIN)
    return _trial(
        parts,
        case,
        [_function("Convolve", ["x"], body, opset=case.opset)],
        lambda x: {"y1": case.answer(x, w, b).value, "y2": case.answer(-x, w, b).value},
    )


def weights_as_inputs(case: ConvCase) -> Trial:
    """Called twice with other weights, of another kernel each: nothing in the body tells it."""
    cases = {
        "y1": replace(case, states_kernel=False),
        "y2": replace(case, states_kernel=False, kernel=(1, 2, 3)),
    }
    parts = Parts(inputs=[video_input(case)])
    held = {}
    for seed, (name, called) in enumerate(cases.items()):
        w, b = called.draw(called.weight_shape, seed), called.draw(called.weight_shape[:1], 9)
        held[name] = (w, b)
        inputs = ["x", parts.hold(f"w_{name}", w), parts.hold(f"b_{name}", b)]
        parts.add("Convolve", inputs, name, domain=DOMAIN)
    body = [cases["y1"].node()]
    return _trial(
        parts,
        case,
        [_function("Convolve", ["x", "w", "b"], body, opset=case.opset)],
        lambda x: {name: cases[name].answer(x, *held[name]).value for name in cases},
    )


def attribute_references(case: ConvCase) -> Trial:
    """Called with its own strides, pads and dilations each time; once with a default."""
    names = ("strides", "pads", "dilations")
    node = replace(case, pads=None, states_kernel=False).node()
    for name in names:
        node.attribute.append(
            AttributeProto(name=name, ref_attr_name=name, type=AttributeProto.INTS)
        )
    default = (1, 2, 1)
    cases = {
        "y1": replace(case, strides=(2, 1, 2), dilations=default),
        "y2": replace(case, strides=(1, 1, 1), dilations=(1, 1, 2)),
    }
    w, b = case.draw(case.weight_shape, 1), case.draw(case.weight_shape[:1], 2)
    parts = Parts(inputs=[video_input(case)])
    parts.hold("w", w)
    parts.hold("b", b)
    for output, called in cases.items():
        given = {name: value for name, value in called.attributes().items() if name in names}
        if given["dilations"] == default:
            del given["dilations"]
        parts.add("Convolve", ["x", "w", "b"], output, domain=DOMAIN, **given)
    function = _function(
        "Convolve",
        ["x", "w", "b"],
        [node],
        opset=case.opset,
        attributes=names[:2],
        defaults=[helper.make_attribute("dilations", default)],
    )
    return _trial(
        parts,
        case,
        [function],
        lambda x: {name: cases[name].answer(x, w, b).value for name in cases},
    )


def function_in_function(case: ConvCase) -> Trial:
    """The inner one convolves, the outer one calls it twice and adds; x comes from the caller."""
    w = case.draw(case.weight_shape, 1)
    b = case.draw(case.weight_shape[:1], 2)
    inner = [*_constants(b=b), case.node()]
    outer = [
        *_constants(w=w),
        helper.make_node("Neg", ["w"], ["minus_w"]),
        helper.make_node("Convolve", ["x", "w"], ["one"], domain=DOMAIN),
        helper.make_node("Convolve", ["x", "minus_w"], ["two"], domain=DOMAIN),
        helper.make_node("Add", ["two", "two"], ["twice"]),
        helper.make_node("Add", ["one", "twice"], ["y"]),
    ]
    parts = Parts(inputs=[video_input(case)])
    parts.add("Outer", ["x"], "y", domain=DOMAIN)
    functions = [
        _function("Convolve", ["x", "w"], inner, opset=case.opset),
        _function("Outer", ["x"], outer, opset=case.opset),
    ]
    return _trial(
        parts,
        case,
        functions,
        lambda x: {"y": case.answer(x, w, b).value + 2 * case.answer(x, -w, b).value},
    )


def called_in_a_body(case: ConvCase) -> Trial:
    """The call sits in both branches of an If, the weight in the outer graph."""
    w, b = case.draw(case.weight_shape, 1), case.draw(case.weight_shape[:1], 2)
    function = _function("Convolve", ["x", "w", "b"], [case.node()], opset=case.opset)
    parts = Parts(inputs=[video_input(case)])
    parts.hold("w", w)
    parts.hold("b", b)
    parts.hold("always", np.array(True))
    sizes = [case.answer(case.draw(s, 0), w, b).value.shape for s in case.input_shapes()]
    bodies = {}
    for branch, op in (("then", "Identity"), ("else", "Neg")):
        nodes = [
            helper.make_node("Convolve", ["x", "w", "b"], ["result"], domain=DOMAIN),
            helper.make_node(op, ["result"], ["out"]),
        ]
        out = open_output(case, "out", sizes)
        bodies[f"{branch}_branch"] = helper.make_graph(nodes, branch, [], [out])
    parts.add("If", ["always"], "y", **bodies)
    return _trial(parts, case, [function], lambda x: {"y": case.answer(x, w, b).value})


def never_called(case: ConvCase) -> Trial:
    """A function that nobody calls, beside one that has no Conv."""
    double = [helper.make_node("Add", ["x", "x"], ["y"])]
    parts = Parts(inputs=[video_input(case)])
    w, b = case.draw(case.weight_shape, 1), case.draw(case.weight_shape[:1], 2)
    parts.hold("w", w)
    parts.hold("b", b)
    parts.nodes.append(case.node(output="once"))
    parts.add("Double", ["once"], "y", domain=DOMAIN)
    functions = [
        _function("Double", ["x"], double, opset=case.opset),
        _function("Unused", ["x", "w", "b"], [case.node()], opset=case.opset),
    ]
    return _trial(parts, case, functions, lambda x: {"y": 2 * case.answer(x, w, b).value})


FUNCTIONS: dict[str, Callable[[ConvCase], Trial]] = {
    builder.__name__: builder
    for builder in (
        constants_inside,
        weights_as_inputs,
        attribute_references,
        function_in_function,
        called_in_a_body,
        never_called,
    )
}
