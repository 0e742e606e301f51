"""The tolerance of an export, on a decoder whose rounding error is planted."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from converter.errors import UserError
from converter.export_check import check, verdict

SHAPE = (1, 4, 2, 3, 3)


def opened(rounding):
    """Upstream doubles the latent and is off by `rounding` in fp32."""
    in_fp32 = SimpleNamespace(
        reference=lambda z: z * 2 + rounding,
        example=lambda shape, generator: torch.randn(shape, generator=generator),
    )
    exact = SimpleNamespace(reference=lambda z: z * 2)
    return SimpleNamespace(coder=in_fp32, in_float64=lambda: exact)


def graph(error):
    return lambda z: z.astype(np.float64) * 2 + error


def test_a_small_error_needs_no_float64():
    made = check(opened(0.0), graph(8e-6), [SHAPE], None)
    assert made.max_abs_error == pytest.approx(8e-6, rel=0.1)
    assert (made.tolerance, made.rounding, made.shapes) == (1e-5, None, (SHAPE,))


def test_a_larger_error_is_held_against_upstreams_own():
    made = check(opened(-1e-4), graph(2e-4), [SHAPE], None)
    assert made.max_abs_error == pytest.approx(3e-4, rel=0.01)
    assert made.rounding == pytest.approx(1e-4, rel=0.01)
    assert made.tolerance == pytest.approx(4e-4, rel=0.01)
    assert check(opened(-1e-4), graph(4e-4), [SHAPE], None).max_abs_error > made.tolerance


def test_an_exact_upstream_does_not_raise_the_tolerance():
    assert check(opened(0.0), graph(2e-5), [SHAPE], None).tolerance == 1e-5


def test_a_tolerance_that_was_asked_for_stays():
    made = check(opened(-1e-4), graph(2e-4), [SHAPE], 1e-7)
    assert (made.tolerance, made.rounding) == (1e-7, None)


def test_not_a_number_is_never_equal():
    made = check(opened(0.0), graph(math.nan), [SHAPE], None)
    assert not made.max_abs_error <= made.tolerance
    assert "different from" in verdict(made.max_abs_error, made.tolerance, made.rounding)


def test_the_worst_of_several_shapes_counts():
    errors = iter([1e-6, 9e-6, 2e-6])
    made = check(opened(0.0), lambda z: z * 2.0 + np.float64(next(errors)), [SHAPE] * 3, None)
    assert made.max_abs_error == pytest.approx(9e-6, rel=0.1)


def test_another_shape_is_refused():
    with pytest.raises(UserError, match=r"makes \(1, 4, 1, 3, 3\) of an input \(1, 4, 2, 3, 3\)"):
        check(opened(0.0), lambda z: z[:, :, 1:], [SHAPE], None)


def test_the_verdict_names_where_the_tolerance_comes_from():
    assert verdict(3e-5, 4.1e-5, 1.025e-5) == (
        "equal to upstream's decode: max abs 3.00e-05 <= 4.1e-05, 4 times upstream's own rounding "
        "error"
    )
    assert verdict(3e-5, 1e-5, 1e-9) == (
        "different from upstream's decode: max abs 3.00e-05 > 1e-05"
    )
