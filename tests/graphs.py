"""Small ONNX models around Conv3D nodes, each with its feeds and the oracle's answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from tests import oracle
from tests.conv_case import Answer, ConvCase, Parts, Run, Trial, open_output, video_input
from tests.weight_sources import WEIGHT_SOURCES, bias


def single(case: ConvCase) -> Trial:
    """One Conv3D with everything that the case says."""
    parts = Parts(inputs=[video_input(case)])
    source = "x" if case.head == "input" else parts.add("Neg", ["x"], "negated")
    choices = WEIGHT_SOURCES[case.weights](case, parts)
    b = bias(case, parts)
    result = "y" if case.tail != "relu" else "before_relu"
    parts.nodes.append(case.node((source, "w", "b"), result))
    if case.tail != "output":
        parts.add("Relu", [result], "relu")

    names = {"output": ["y"], "relu": ["relu"], "both": ["y", "relu"]}[case.tail]
    runs = []
    for index, shape in enumerate(case.input_shapes()):
        x = case.draw(shape, 10 + index)
        for feed, w in choices:
            answer = case.answer(x if case.head == "input" else -x, w, b)
            after_relu = Answer(np.maximum(answer.value, 0), answer.tolerance)
            answers = {name: after_relu if name == "relu" else answer for name in names}
            if case.weights == "also_an_output":
                answers["w_out"] = Answer(w.astype(np.float64))
            runs.append(Run(parts.feed | feed | {"x": x}, answers))
    for name in names:
        shapes = [run.answers[name].value.shape for run in runs]
        parts.outputs.append(open_output(case, name, shapes))
    return Trial(parts.model(case.opset), tuple(runs))


def ir_3(case: ConvCase) -> Trial:
    """As models of 2017 are: every initializer is listed among the graph's inputs, and fixed."""
    trial = single(replace(case, weights="initializer"))
    model = trial.model
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    model.ir_version = 3
    return trial


def several(first: ConvCase, second: ConvCase, names: tuple[str, str]) -> Trial:
    """Two Conv3D of one input that share one weight and bias; the node names are free."""
    parts = Parts(inputs=[video_input(first)])
    choices = WEIGHT_SOURCES[first.weights](first, parts)
    b = bias(first, parts)
    parts.nodes += [
        first.node(output="y", name=names[0]),
        second.node(output="z", name=names[1]),
    ]
    runs = []
    for index, shape in enumerate(first.input_shapes()):
        x = first.draw(shape, 10 + index)
        for feed, w in choices:
            answers = {"y": first.answer(x, w, b), "z": second.answer(x, w, b)}
            runs.append(Run(parts.feed | feed | {"x": x}, answers))
    for name in ("y", "z"):
        shapes = [run.answers[name].value.shape for run in runs]
        parts.outputs.append(open_output(first, name, shapes))
    return Trial(parts.model(first.opset), tuple(runs))


def chain(first: ConvCase, second: ConvCase) -> Trial:
    """Two Conv3D one after the other, and beside them a Conv2D and a Conv1D to be left alone."""
    parts = Parts(inputs=[video_input(first)])
    w1, w2 = first.draw(first.weight_shape, 1), second.draw(second.weight_shape, 2)
    parts.nodes += [
        replace(first, bias=False).node(("x", parts.hold("w1", w1)), "middle", "conv1"),
        replace(second, bias=False).node(("middle", parts.hold("w2", w2)), "y", "conv2"),
    ]
    x = first.draw(first.input_shapes()[0], 10)
    middle = first.answer(x, w1, None).value.astype(first.dtype)
    answers = {"y": second.answer(middle, w2, None)}
    for rank in (1, 2):
        small_x = first.draw((1, 2, *(4, 5)[:rank]), 20 + rank)
        small_w = first.draw((3, 2, *(2, 2)[:rank]), 30 + rank)
        inputs = [parts.ask(f"x_{rank}d", small_x), parts.hold(f"w_{rank}d", small_w)]
        name = parts.add("Conv", inputs, f"y_{rank}d")
        answers[name] = Answer(oracle.conv(small_x, small_w))
    for name, answer in answers.items():
        parts.outputs.append(
            helper.make_tensor_value_info(name, first.elem_type, answer.value.shape)
        )
    return Trial(parts.model(first.opset), (Run(parts.feed | {"x": x}, answers),))


def beside_upsample(case: ConvCase) -> Trial:
    """A Conv3D, and an image that Upsample (opset 7 to 9) makes twice as wide."""
    trial = single(case)
    image = case.draw((1, 1, 2, 3), 20)
    parts = Parts()
    parts.ask("image", image)
    parts.add("Upsample", ["image", parts.hold("scales", np.float32([1, 1, 1, 2]))], "wide")
    wide = Answer(np.repeat(image, 2, axis=3).astype(np.float64))
    parts.outputs.append(helper.make_tensor_value_info("wide", case.elem_type, wide.value.shape))
    graph = trial.model.graph
    graph.node.extend(parts.nodes)
    graph.input.extend(parts.inputs)
    graph.output.extend(parts.outputs)
    graph.initializer.extend(parts.initializers)
    runs = [
        replace(run, feed={**run.feed, **parts.feed}, answers={**run.answers, "wide": wide})
        for run in trial.runs
    ]
    return Trial(trial.model, tuple(runs))


def unknown_shape(case: ConvCase, *, of: str, rank_known: bool) -> Trial:
    """A Reshape to a size that is fed hides the shape of "x", of "w" or of both ("xw")."""
    trial = single(replace(case, weights="graph_input", head="input"))
    graph = trial.model.graph
    (conv,) = graph.node
    fed = {}
    for place, name in enumerate("xw"):
        if name not in of:
            continue
        dims = [5] if rank_known else ["unknown"]
        wanted = helper.make_tensor_value_info(f"shape_of_{name}", TensorProto.INT64, dims)
        graph.input.append(wanted)
        hide = helper.make_node("Reshape", [name, wanted.name], [f"hidden_{name}"])
        graph.node.insert(0, hide)
        conv.input[place] = hide.output[0]
        fed[wanted.name] = name
    runs = [
        replace(
            run,
            feed={**run.feed, **{new: np.array(run.feed[old].shape) for new, old in fed.items()}},
        )
        for run in trial.runs
    ]
    return Trial(trial.model, tuple(runs))
