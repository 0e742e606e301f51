import json
import math

import numpy as np
import pytest

from converter.bench.contestants import GEMM_OPERATIONS
from converter.bench.statistics import Spread
from converter.compare.metrics import difference
from tests.bench.results import MACHINE, TWO, lane, result


def test_figures_of_known_samples():
    first, second = TWO.figures
    assert first.wall_speedup == Spread(1, 1, 1, 1, 1)
    assert second.wall == Spread(2, 2, 2, 3, 4)
    # Round by round: 4/2, 6/2, 8/4; of the processor seconds 8/4, 11/4, 16/8.
    assert second.wall_speedup == Spread(2, 2, 2, 2.5, 3)
    assert second.cpu_speedup == Spread(2, 2, 2, 2.375, 2.75)


def test_rates_count_the_first_graphs_operations_for_all():
    first, second = TWO.figures
    assert first.gflops == pytest.approx(GEMM_OPERATIONS / 6 / 1e9)
    assert second.gflops == pytest.approx(GEMM_OPERATIONS / 2 / 1e9)
    assert TWO.gemm_gflops == pytest.approx(GEMM_OPERATIONS / 2 / 1e9)
    # The GEMM took 1, 2, 4 s by the clock and twice that of the processor, for the same work.
    assert first.of_gemm == pytest.approx(np.median([1 / 4, 2 / 6, 4 / 8]))
    assert second.of_gemm == pytest.approx(np.median([1 / 2, 2 / 2, 4 / 4]))
    assert first.of_gemm_cpu == pytest.approx(np.median([2 / 8, 4 / 11, 8 / 16]))
    half = result(*TWO.lanes, operations=GEMM_OPERATIONS // 2).figures[0]
    assert half.of_gemm == pytest.approx(np.median([1 / 4, 2 / 6, 4 / 8]) / 2)


def test_without_known_operations_there_are_no_rates():
    figures = result(*TWO.lanes, operations=None).figures[0]
    assert (figures.gflops, figures.of_gemm, figures.of_gemm_cpu) == (None, None, None)
    assert figures.wall_speedup.median == 1


def test_a_broken_off_round_counts_where_there_is_a_pair():
    first, second = result(lane("a", [4, 6]), lane("b", [2]), gemm=[]).figures
    assert first.wall.maximum == 6
    assert second.wall_speedup == Spread(2, 2, 2, 2, 2)
    assert first.of_gemm is None


def test_a_contestant_that_never_ran_has_no_figures():
    broken = result(lane("a", [1, 1]), lane("b", [], failure="b is not installed."))
    assert broken.figures[1] is None
    assert broken.to_json()["contestants"][1]["figures"] is None


def test_the_error_is_infinite_where_only_one_side_is_finite():
    a, b = np.float32([0, 1]), np.float32([np.nan, 1])
    assert lane("b", [1], difference=difference("y", a, b)).max_abs_error == math.inf
    assert math.isnan(lane("b", [1], difference=difference("y", a, b[:1])).max_abs_error)
    assert lane("b", [1], error=0.5).max_abs_error == 0.5
    assert lane("b", [1]).max_abs_error is None


def test_json_is_versioned_and_holds_every_sample():
    content = TWO.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["version"] == 1
    assert (content["rounds"], content["seed"], content["threads"]) == (3, 7, 2)
    assert (content["interrupted"], content["operations"]) == (False, GEMM_OPERATIONS)
    assert content["feed_shapes"] == {"x": [1, 2, 3]}
    assert content["machine"] == MACHINE
    second = content["contestants"][1]
    assert [second[key] for key in ("label", "description", "load_seconds", "failure")] == [
        "second|.onnx", "a runtime", 0.5, ""
    ]  # fmt: skip
    assert second["wall_samples"] == [2, 2, 4]
    assert second["cpu_samples"] == [4, 4, 8]
    assert second["max_abs_error"] == second["difference"]["max_abs"] == 0.25
    assert second["memory"]["run_peak"] == 2_000_000_000
    assert second["figures"]["wall_speedup"]["median"] == 2
    assert content["gemm"]["gflops"] == TWO.gemm_gflops
    assert result(*TWO.lanes, notes=("one is missing",)).to_json()["notes"] == ["one is missing"]
