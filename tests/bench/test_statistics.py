import pytest

from converter.bench.statistics import Spread, speedups, spread


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([7.0], Spread(7, 7, 7, 7, 7)),
        ([5, 1, 4, 2, 3], Spread(1, 2, 3, 4, 5)),
        ([4, 1, 3, 2], Spread(1, 1.75, 2.5, 3.25, 4)),
    ],
)
def test_quartiles_interpolate(samples, expected):
    assert spread(samples) == expected


def test_speedups_are_first_over_other_pair_by_pair():
    assert speedups([6, 8, 9], [3, 2, 18]) == [2, 4, 0.5]


def test_a_broken_off_round_has_no_pair():
    assert speedups([6, 8, 9], [3, 2]) == [2, 4]
    assert speedups([6], []) == []
