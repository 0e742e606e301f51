import numpy as np
import pytest

from converter.compare.stored_array import StoredArray, parts


@pytest.fixture
def stored(tmp_path):
    """0 to 59 as big-endian shorts behind seven other bytes, given as float32."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"7 bytes" + np.arange(60, dtype=">i2").tobytes())
    return StoredArray(path, 7, np.dtype(">i2"), (3, 4, 5), np.dtype(np.float32))


def test_parts_are_those_of_the_array(stored):
    whole = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    assert (stored.ndim, stored.size, stored.shape) == (3, 60, (3, 4, 5))
    for index in (1, (2, slice(None), 3), (slice(None), 0), (..., slice(1, 3))):
        found = stored[index]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, whole[index])


def test_a_part_is_a_copy_that_outlives_the_file(stored):
    found = stored[0]
    assert type(found) is np.ndarray
    assert found.flags.owndata
    stored.path.unlink()
    assert found[3, 4] == 19


def test_all_parts_are_the_whole_in_order(stored):
    sizes = [part.size for part in parts(stored, 25)]
    assert sizes == [25, 25, 10]
    np.testing.assert_array_equal(np.concatenate(list(parts(stored, 25))), np.arange(60))
    np.testing.assert_array_equal(
        np.concatenate(list(parts(np.arange(60).reshape(3, 20).T, 7))),
        np.arange(60).reshape(3, 20).T.ravel(),
    )


def test_another_type_is_that_of_the_parts(stored):
    wide = stored.astype(np.float64)
    assert (wide.dtype, wide[0].dtype, stored.dtype) == (np.float64, np.float64, np.float32)
    assert wide.kind == stored.kind
