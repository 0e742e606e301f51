import numpy as np
import pytest

from converter.compare.selection import of_ranks, quantiles


def in_parts(values, size=97):
    """A fresh pass over the values with every call."""
    return lambda: (values[start : start + size] for start in range(0, values.size, size))


def draws(kind, dtype, size=2000):
    random = np.random.default_rng(8)
    if kind == "wide":  # from denormals to the largest: all digits of the bits differ
        low, high = np.log2(np.finfo(dtype).smallest_subnormal), np.finfo(dtype).maxexp - 1
        return np.exp2(random.uniform(low, high, size)).astype(dtype)
    if kind == "close":  # only the last bits differ, and most occur several times
        one = np.array(1, dtype).view(f"u{np.dtype(dtype).itemsize}")
        return (one + random.integers(0, 300, size).astype(one.dtype)).view(dtype)
    return np.where(random.random(size) < 0.9, 0, random.random(size)).astype(dtype)  # mostly zero


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["wide", "close", "zeros"])
def test_every_rank_is_that_of_sorting(dtype, kind):
    values = draws(kind, dtype)
    ordered = np.sort(values)
    ranks = [0, 1, 2, 999, 1000, 1801, 1997, 1998, 1999]
    assert of_ranks(in_parts(values), np.dtype(dtype), ranks) == {r: ordered[r] for r in ranks}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_are_those_of_numpy(dtype):
    values = draws("close", dtype)
    wanted = (0, 0.1234, 0.5, 0.9, 0.99, 0.999, 1)
    found = quantiles(in_parts(values), np.dtype(dtype), wanted)
    expected = np.quantile(values.astype(np.float64), wanted)
    assert found == pytest.approx(list(expected), rel=1e-15)


def test_one_element_and_none():
    one = np.array([3.5], np.float32)
    assert quantiles(in_parts(one), one.dtype, (0, 0.3, 1)) == (3.5, 3.5, 3.5)
    assert np.isnan(quantiles(in_parts(one[:0]), one.dtype, (0, 1))).all()


def test_infinity_is_the_largest():
    values = np.array([np.inf, 1, 2], np.float32)
    assert quantiles(in_parts(values), values.dtype, (0.0, 0.5, 1.0)) == (1.0, 2.0, np.inf)


@pytest.mark.parametrize(("dtype", "expected"), [(np.float32, 3), (np.float64, 5)])
def test_it_takes_a_pass_a_digit_and_one_to_count(dtype, expected):
    values = draws("wide", dtype)
    passes = []

    def one_more():
        passes.append(1)
        return in_parts(values)()

    quantiles(one_more, np.dtype(dtype), (0.5, 0.9, 0.999))
    assert len(passes) == expected
