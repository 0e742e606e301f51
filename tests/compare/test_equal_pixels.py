"""Pixels may be off by one level in one of a hundred, and no further: both sides of each border."""

import numpy as np
import pytest

from converter.compare.detail import detail
from converter.compare.gates import Gates, Limits, failures, passing
from converter.compare.metrics import difference
from converter.compare.tolerance import FP32, Tolerance

SIZE = 1000
"""Of which ten are one in a hundred."""

STRICT = Tolerance(min_psnr_db=1000.0, max_abs_of_range=0.0)
"""What no difference passes, so that only the rule for pixels lets one through."""


def pair(off: int, by: int = 1, dtype=np.uint8):
    """`off` of 1000 elements differ by `by`, half of them upwards and half downwards."""
    reference = np.arange(SIZE).reshape(10, 100).astype(dtype) % 100 + 100
    candidate = reference.copy()
    candidate.reshape(-1)[:off:2] += dtype(by)
    candidate.reshape(-1)[1:off:2] -= dtype(by)
    return reference.astype(dtype), candidate.astype(dtype)


CASES = [
    (0, 1, np.uint8, True),
    (1, 1, np.uint8, True),
    (10, 1, np.uint8, True),  # one in a hundred
    (11, 1, np.uint8, False),
    (1000, 1, np.uint8, False),
    (1, 2, np.uint8, False),  # two levels, if only once
    (10, 2, np.uint8, False),
    (1, 1, np.uint16, False),  # no pixels: whole numbers must be equal
    (1, 1, np.int8, False),
    (1, 1, np.int64, False),
    (0, 1, np.int64, True),
]


@pytest.mark.parametrize(("off", "by", "dtype", "equal"), CASES)
def test_both_verdicts_draw_the_border_there(off, by, dtype, equal):
    reference, candidate = pair(off, by, dtype)
    assert np.count_nonzero(reference != candidate) == off  # the case is what it says
    found = difference("y", reference, candidate)
    assert found.equal_pixels is equal
    # The validation's verdict, which asks for no PSNR where the values are whole numbers.
    assert found.why_fails(STRICT) == ("" if equal else f"{off} elements differ")
    assert (found.needed() is not None) is equal
    # The verdict by gates: no gate excuses other numbers, and none is too strict for these.
    one = detail("y", reference, candidate)
    for gates in (Gates(Limits(atol=0.0)), Gates(Limits(atol=1e9)), Gates(default=FP32)):
        assert [f.gate for f in failures(one, gates)] == ([] if equal else ["equal"])
    assert (passing(one) is not None) is equal


def test_the_share_is_of_the_whole_output():
    """One of a hundred pixels of the output, not of the elements that differ or of a row."""
    reference = np.full((1, 2, 50, 3), 128, np.uint8)
    candidate = reference.copy()
    candidate[0, 0, 0] += 1  # three of 300, all in one pixel
    assert difference("y", reference, candidate).equal_pixels
    candidate[0, 1, 0, 0] -= 1
    assert not difference("y", reference, candidate).equal_pixels


def test_levels_do_not_wrap_around():
    """255 and 0 are 255 levels apart, although 255 + 1 is 0 in eight bits."""
    reference, candidate = np.full(1000, 255, np.uint8), np.full(1000, 255, np.uint8)
    candidate[0] = 0
    found = difference("y", reference, candidate)
    assert found.max_abs == 255
    assert not found.equal_pixels


def test_a_float_has_no_such_share():
    reference, candidate = (a.astype(np.float32) for a in pair(1))
    found = difference("y", reference, candidate)
    assert not found.exact
    assert "PSNR" in found.why_fails(FP32)
