import math

import numpy as np

from converter.compare.histogram import Histogram, histogram


def test_counts_errors_by_quarter_decades():
    reference = np.zeros(6)
    candidate = np.array([0, 1.5e-3, 1.7e-3, -2e-3, 0, 2.0])
    found = histogram(reference, candidate)
    assert found.zero == 2
    assert found.first == -3
    # 1.5e-3 and 1.7e-3 lie below 10^-2.75 = 1.78e-3, 2e-3 above; 2 = 10^0.301 lies in 0.25..0.5.
    assert found.counts == (2, 1, *[0] * 11, 1)


def test_equal_arrays_have_no_bins_and_nan_is_left_out():
    assert histogram(np.ones(3), np.ones(3)).to_json() == {
        "zero": 3,
        "first": None,
        "counts": [],
        "bins_per_decade": 4,
    }
    found = histogram(np.ones(2), np.array([np.nan, 1]))
    assert (found.zero, found.counts) == (1, ())
    assert math.isnan(found.first)


def test_what_is_beyond_the_axis_counts_at_its_ends():
    found = histogram(np.zeros(2), np.array([1e-30, 1e30]))
    assert sum(found.counts) == 2
    assert found == Histogram(0, -20.0, found.counts)
    assert len(found.counts) == 120


def test_every_slice_counts():
    reference = np.zeros(200_000, np.float32)
    assert sum(histogram(reference, reference + np.float32(0.5)).counts) == 200_000
