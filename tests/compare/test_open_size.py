import pytest

from converter.compare.open_size import OpenSize, parse


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("T", OpenSize("T")),
        ("batch_size", OpenSize("batch_size")),
        ("8*H", OpenSize("H", 8)),
        ("4*T - 3", OpenSize("T", 4, -3)),
        ("s0 + 1", OpenSize("s0", 1, 1)),
        ("((s0 - 1)//2) + 1", OpenSize("((s0 - 1)//2) + 1")),
        ("unk__1", OpenSize("unk__1")),
        ("2*3", OpenSize("2*3")),
    ],
)
def test_names_are_read(name, expected):
    assert parse(name) == expected
    assert parse(name).plain == (expected == OpenSize(name))


def test_sizes_and_what_they_are_made_of():
    frames = parse("4*T - 3")
    assert [frames.size(k) for k in (1, 2, 5)] == [1, 5, 17]
    assert [frames.solve(size) for size in (1, 5, 17)] == [1, 2, 5]
    assert frames.solve(4) is None
    assert parse("H").solve(7) == 7
