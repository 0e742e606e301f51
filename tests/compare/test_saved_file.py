"""Saved outputs against what NumPy itself reads and writes."""

import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from converter.compare.saved_file import open_saved, write_saved
from converter.compare.spool import Spool
from converter.compare.stored_array import StoredArray
from converter.errors import UserError

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def spool():
    made = Spool()
    with made:
        yield made


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [
        A,
        A.astype(">f8"),
        A.astype(np.float16),
        (A > 7),
        A.astype(np.uint8).T,  # in Fortran order
        A.astype(">i4").T,
        A[0, 0],
        A[:0],
        np.float64(2.5),
    ],
    ids=lambda array: f"{array.dtype.str}{np.shape(array)}",
)
def test_reads_what_numpy_wrote(tmp_path, spool, save, array):
    save(tmp_path / "a.npz", first=array, second=A)
    (run,) = open_saved(tmp_path / "a.npz", spool)
    assert list(run) == ["first", "second"]
    for found, expected in ((run["first"], array), (run["second"], A)):
        assert found.shape == np.shape(expected)
        assert found.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[...], expected)
        np.testing.assert_array_equal(found.reshape(-1)[:7], np.ravel(expected)[:7])


def test_numpy_reads_what_was_written(tmp_path, spool):
    write_saved(tmp_path / "in.npz", [{"y": A, "n": np.int64(3)}, {"y": A.T, "n": np.int64(4)}])
    runs = open_saved(tmp_path / "in.npz", spool)
    write_saved(tmp_path / "out.npz", runs)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["in.npz", "out.npz"]
    for name in ("in.npz", "out.npz"):
        with np.load(tmp_path / name) as found:
            assert found.files == ["y", "n", "feed1/y", "feed1/n"]
            np.testing.assert_array_equal(found["y"], A)
            np.testing.assert_array_equal(found["feed1/y"], A.T)
            assert (found["n"], found["feed1/n"]) == (3, 4)


def test_bfloat16_is_saved_as_float32(tmp_path, spool):
    write_saved(tmp_path / "a.npz", [{"y": A.astype(ml_dtypes.bfloat16)}])
    (run,) = open_saved(tmp_path / "a.npz", spool)
    assert run["y"].dtype == np.float32
    np.testing.assert_array_equal(run["y"][...], A)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_holds_parts_only(tmp_path, spool, save):
    large = np.zeros((4, 1 << 20), np.float32)  # 16 MB
    large[3, 5] = 7
    save(tmp_path / "a.npz", y=large, t=large.T)
    tracemalloc.start()
    try:
        (run,) = open_saved(tmp_path / "a.npz", spool)
        write_saved(tmp_path / "b.npz", [run])
        # One row of `t` in Fortran order has 16 bytes; blocks are of 1 MB, zipfile's copies beside.
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()
    with np.load(tmp_path / "b.npz") as found:
        np.testing.assert_array_equal(found["y"], large)
        np.testing.assert_array_equal(found["t"], large.T)


def test_what_is_stored_is_read_where_it_lies(tmp_path, spool):
    np.savez(tmp_path / "a.npz", y=A)
    np.savez_compressed(tmp_path / "b.npz", y=A)
    paths = []
    for name in ("a.npz", "b.npz"):
        (run,) = open_saved(tmp_path / name, spool)
        assert isinstance(run["y"], StoredArray)
        paths.append(run["y"].path)
    assert paths[0] == tmp_path / "a.npz"
    assert paths[1].parent != tmp_path


def damaged(path):
    """One bit of the data of a stored member turned."""
    np.savez(path, y=A)
    raw = bytearray(path.read_bytes())
    raw[raw.index(A.tobytes()) + 20] ^= 1
    path.write_bytes(raw)


def with_member(name, content):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return write


HEADER = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(117) + b"\n"
)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b""), "is not a readable .npz file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), "not a readable .npz file"),
        (lambda path: np.savez(path), "holds no array"),
        (damaged, "a.npz is damaged: y.npy does not match its checksum"),
        (with_member("readme.txt", "hello"), "readme.txt in .*a.npz is no array"),
        (with_member("y.npy", b"no header"), "not a readable .npz file: the magic string"),
        (with_member("y.npy", HEADER + b"1234567"), "y in .*a.npz is cut short"),
        (lambda path: np.savez(path, y=np.array([{}])), "pickled Python objects, which are not"),
        (lambda path: np.savez(path, y=np.array(["a"])), "is <U1; booleans, integers and floats"),
        (lambda path: np.savez(path, y=A * 1j), "is complex64; booleans"),
        (lambda path: np.savez(path, **{"y": A, "feed1/z": A}), "holds y of feed 0, but z of feed"),
        (lambda path: np.savez(path, **{"y": A, "feed2/y": A}), r"feeds \[0, 2\], but they must"),
    ],
)
def test_what_is_no_saved_output_is_refused(tmp_path, spool, write, complaint):
    write(tmp_path / "a.npz")
    with pytest.raises(UserError, match=complaint):
        open_saved(tmp_path / "a.npz", spool)


def test_a_header_that_is_whole_is_read(tmp_path, spool):
    """The one that the case above cuts short."""
    with_member("y.npy", HEADER + np.array([1, 2], np.float32).tobytes())(tmp_path / "a.npz")
    (run,) = open_saved(tmp_path / "a.npz", spool)
    np.testing.assert_array_equal(run["y"][:], [1, 2])


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_saved(tmp_path / "a.npz", [{"y": A}])
    with pytest.raises(AttributeError):
        write_saved(tmp_path / "a.npz", [{"y": A + 1}, {"y": None}])
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as found:
        np.testing.assert_array_equal(found["y"], A)
