import json
import math
import sys

import numpy as np
import pytest

from converter.compare.frames import check_installed, frame_table
from converter.errors import UserError

pytest.importorskip("skimage")


def pair(shape=(2, 3, 4, 13, 17), noise=0.05):
    random = np.random.default_rng(6)
    reference = random.random(shape).astype(np.float32)
    # A frame has more noise than the one before it.
    more = np.arange(1, shape[2] + 1)[:, None, None] if len(shape) == 5 else 1
    return reference, (reference + noise * more * random.standard_normal(shape)).astype(np.float32)


def ssim_restated(x, y, data_range):
    """Wang et al. 2004 in float64: an 11 x 11 Gaussian of sigma 1.5, no padding; mean over all."""
    axis = np.arange(11) - 5
    weights = np.exp(-(axis**2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2

    def blur(image):
        seen = np.lib.stride_tricks.sliding_window_view(image, (11, 11), axis=(1, 2))
        return np.einsum("chwij,ij->chw", seen, window)

    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, cxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    index = (2 * mx * my + c1) * (2 * cxy + c2)
    return (index / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def test_every_frame_of_every_sample_in_order():
    table = frame_table(*pair(), data_range=1.0)
    assert [(f.sample, f.frame) for f in table.frames] == [(n, t) for n in (0, 1) for t in range(4)]


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_figures_of_a_frame_equal_their_restatement(data_range):
    reference, candidate = pair()
    table = frame_table(reference, candidate, data_range)
    assert table.data_range == data_range
    for found in table.frames:
        x, y = (a[found.sample, :, found.frame].astype(np.float64) for a in (reference, candidate))
        mse = np.mean((x - y) ** 2)
        assert found.psnr_db == pytest.approx(10 * np.log10(data_range**2 / mse), rel=1e-12)
        assert found.max_abs == np.abs(x - y).max()
        assert found.mean_abs == pytest.approx(np.abs(x - y).mean(), rel=1e-12)
        assert found.ssim == pytest.approx(ssim_restated(x, y, data_range), abs=1e-9)
        assert 0.1 < found.ssim < 0.999


def test_psnr_agrees_with_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    reference, candidate = pair()
    for found in frame_table(reference, candidate, 1.5).frames:
        x, y = (a[found.sample, :, found.frame].astype(np.float64) for a in (reference, candidate))
        assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1.5))


def test_summary_is_mean_min_max_over_frames():
    table = frame_table(*pair(), data_range=1.0)
    for name in ("psnr_db", "ssim"):
        values = [getattr(frame, name) for frame in table.frames]
        spread = getattr(table, name)
        assert spread.mean == pytest.approx(np.mean(values))
        assert (spread.min, spread.max) == (min(values), max(values))
        assert values[0] == max(values[:4])  # noise grows with the frame
        assert values[3] == min(values[:4])


def test_equal_frames():
    reference, _ = pair()
    table = frame_table(reference, reference, 1.0)
    assert all(f.psnr_db == math.inf and f.ssim == 1 and f.max_abs == 0 for f in table.frames)
    assert table.psnr_db.mean == math.inf


def test_images_are_one_frame_each():
    video_reference, video_candidate = pair()
    images = [np.ascontiguousarray(a[:, :, 2]) for a in (video_reference, video_candidate)]
    found = frame_table(*images, data_range=1.0)
    video = frame_table(video_reference, video_candidate, 1.0)
    assert [(f.sample, f.frame) for f in found.frames] == [(0, 0), (1, 0)]
    assert [f.ssim for f in found.frames] == [video.frames[2].ssim, video.frames[6].ssim]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (1, 1, 1, 2, 3, 4), (1, 3, 0, 16, 16)])
def test_other_shapes_have_no_frames(shape):
    assert frame_table(np.zeros(shape), np.zeros(shape), 1.0) is None


@pytest.mark.parametrize(("height", "known"), [(10, False), (11, True)])
def test_ssim_needs_eleven_pixels(height, known):
    table = frame_table(*pair((1, 3, 2, height, 16)), data_range=1.0)
    assert [math.isnan(frame.ssim) for frame in table.frames] == [not known] * 2
    assert math.isnan(table.ssim.mean) is not known
    assert all(math.isfinite(frame.psnr_db) for frame in table.frames)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_frame_that_is_not_finite_is_unknown_and_left_out_of_the_summary(side, value):
    arrays = pair()
    arrays[side][0, 1, 2, 3, 4] = value
    table = frame_table(*arrays, data_range=1.0)
    unknown = table.frames[2]
    assert all(
        math.isnan(value)
        for value in (unknown.psnr_db, unknown.max_abs, unknown.mean_abs, unknown.ssim)
    )
    others = [frame.ssim for frame in table.frames if frame is not unknown]
    assert table.ssim.mean == pytest.approx(np.mean(others))


def test_json_has_summary_and_frames():
    arrays = pair()
    arrays[0][0, 1, 2, 3, 4] = np.nan
    report = json.loads(json.dumps(frame_table(*arrays, 1.0).to_json(), allow_nan=False))
    assert report["data_range"] == 1.0
    assert set(report["psnr_db"]) == set(report["ssim"]) == {"mean", "min", "max"}
    assert report["frames"][2]["ssim"] is None
    assert report["frames"][7]["sample"] == 1
    assert report["frames"][7]["frame"] == 3


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(UserError, match=r"convert-vae\[report\]"):
        frame_table(*pair(), data_range=1.0)
    with pytest.raises(UserError, match=r"convert-vae\[report\]"):
        check_installed()
