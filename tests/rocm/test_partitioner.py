"""The static check against the real partitioners of the released AMD packages.

Proven here: which provider gets which node, and that sessions are made and run to their end.
Not proven: numbers and speed, because the stand-ins' kernels do nothing.
"""

import onnx
import pytest

from converter.placement import place
from tests.rocm.asking import ask
from tests.rocm.random_graphs import random_graph

pytestmark = pytest.mark.rocm

SEEDS = range(160)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    models = {}
    for seed in SEEDS:
        model = random_graph(seed)
        if model is not None:
            path = folder / f"{seed}.onnx"
            onnx.save(model, path)
            models[path] = model
    return models


def comparable(model, answer, static):
    """The names that both sides know of, and of these those that each sends to the CPU.

    Casts to the type that a tensor already has, operators that are replaced by their definition,
    and constants are gone before the partitioner runs.
    """
    named = set(answer["named"]) or {n.name for n in model.graph.node}
    known = {n.name for n in model.graph.node} & named - set(static.constants)
    expected = {f.node for f in static.fallbacks} | set(static.shape_work)
    return known, expected & known, set(answer["elsewhere"]) & known


def test_the_static_check_agrees_with_rocm_on_random_graphs(rocm, random_models):
    compared = fallen = failed = 0
    for (path, model), answer in zip(random_models.items(), ask(rocm, random_models), strict=True):
        static = place(model, "rocm")
        fatal = any(f.fatal for f in static.fallbacks)
        assert ("error" in answer) == fatal, (path.stem, answer)
        if fatal:
            failed += 1
            continue
        known, expected, real = comparable(model, answer, static)
        assert expected == real, path.stem
        compared += len(known)
        fallen += len(real)
    assert (compared > 1500, fallen > 200, failed > 2) == (True, True, True)


def test_what_the_static_check_finds_complete_migraphx_takes_whole(migraphx, random_models):
    """In a graph that it cannot take whole MIGraphX hands back more nodes than it must, or fails.

    So the static check promises two things: a complete graph is taken whole, and the nodes that it
    names are not taken.
    """
    whole = fallen = 0
    answers = ask(migraphx, random_models)
    for (path, model), answer in zip(random_models.items(), answers, strict=True):
        static = place(model, "migraphx")
        if "error" in answer:
            assert not static.complete, (path.stem, answer)
            continue
        _, expected, real = comparable(model, answer, static)
        assert expected <= real, path.stem
        if static.complete:
            assert real == set(), path.stem
            whole += 1
        fallen += len(real)
    assert (whole > 4, fallen > 200) == (True, True)
