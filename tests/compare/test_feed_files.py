import numpy as np
import pytest

from converter.compare.feed_files import key_of, read_arrays
from converter.errors import UserError

A = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_reads_npy_and_npz(tmp_path):
    np.save(tmp_path / "a.npy", A)
    np.savez(tmp_path / "a.npz", z=A, scale=np.float32(2))
    (one,) = read_arrays(tmp_path / "a.npy")
    assert list(one) == [""]
    np.testing.assert_array_equal(one[""], A)
    (two,) = read_arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(two["z"], A)
    assert two["scale"] == 2


def test_several_feeds_share_an_npz(tmp_path):
    np.savez(tmp_path / "x.npz", **{key_of(0, "a/b"): A, key_of(1, "a/b"): A + 1})
    first, second = read_arrays(tmp_path / "x.npz")
    np.testing.assert_array_equal(first["a/b"], A)
    np.testing.assert_array_equal(second["a/b"], A + 1)


def test_reads_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"z": A}, tmp_path / "a.safetensors")
    (found,) = read_arrays(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(found["z"], A)


def test_reads_tensors_but_no_code_from_pt(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"z": torch.from_numpy(A).bfloat16()}, tmp_path / "d.pt")
    torch.save(torch.from_numpy(A), tmp_path / "t.pt")
    torch.save({"z": print}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (named,) = read_arrays(tmp_path / "d.pt")
    np.testing.assert_array_equal(named["z"], A)
    (plain,) = read_arrays(tmp_path / "t.pt")
    np.testing.assert_array_equal(plain[""], A)
    with pytest.raises(UserError, match=r"code\.pt is not a readable \.pt file"):
        read_arrays(tmp_path / "code.pt")
    with pytest.raises(UserError, match="something else than a tensor"):
        read_arrays(tmp_path / "list.pt")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.safetensors"])
def test_a_broken_file_is_a_sentence(tmp_path, name):
    pytest.importorskip("torch")
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(UserError, match="is not a readable"):
        read_arrays(tmp_path / name)


def test_refuses_pickles_other_kinds_missing_and_empty_files(tmp_path):
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    np.savez(tmp_path / "empty.npz")
    np.savez(tmp_path / "gap.npz", **{"feed2/z": A})
    (tmp_path / "a.txt").write_text("1")
    for name, complaint in (
        ("o.npy", "not a readable"),
        ("empty.npz", "holds no array"),
        ("gap.npz", "must count from 0"),
        ("a.txt", "none of .npy"),
        ("missing.npy", "does not exist"),
    ):
        with pytest.raises(UserError, match=complaint):
            read_arrays(tmp_path / name)
