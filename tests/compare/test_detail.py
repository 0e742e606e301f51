import json

import numpy as np
import pytest

from converter.compare.detail import detail

pytest.importorskip("skimage")


def pair():
    random = np.random.default_rng(7)
    reference = random.standard_normal((1, 3, 2, 12, 12)).astype(np.float32)
    return reference, reference + np.float32(1e-3) * random.random(reference.shape, np.float32)


def test_holds_every_figure_as_json():
    reference, candidate = pair()
    found = detail("y", reference, candidate, rtol=0.01)
    report = json.loads(json.dumps(found.to_json(), allow_nan=False))
    error = np.abs(candidate.astype(np.float64) - reference)
    assert report["name"] == "y"
    assert report["max_abs"] == error.max()
    assert set(report["quantiles"]) == {"p50", "p90", "p99", "p99.9"}
    assert report["quantiles"]["p99.9"] == pytest.approx(np.quantile(error, 0.999), rel=1e-6)
    assert report["max_ulp"] == found.max_ulp > 0
    assert report["rtol"] == 0.01
    assert report["least_atol"] == (error - 0.01 * np.abs(reference.astype(np.float64))).max()
    assert report["needed_tolerance"] == found.difference.needed().to_json()
    assert len(report["frames"]["frames"]) == 2


def test_frames_take_the_given_range_or_the_references():
    reference, candidate = pair()
    own = detail("y", reference, candidate)
    assert own.frames.data_range == own.difference.data_range == np.ptp(reference.astype(float))
    assert detail("y", reference, candidate, data_range=2.0).frames.data_range == 2.0


def test_frames_may_be_left_out():
    assert detail("y", *pair(), frames=False).frames is None
    assert detail("y", *pair(), frames=False).to_json()["frames"] is None


def test_another_shape_says_only_that():
    reference, candidate = pair()
    report = detail("y", reference, candidate[:, :1]).to_json()
    assert report["problem"] == "float32 [1, 1, 2, 12, 12] instead of float32 [1, 3, 2, 12, 12]"
    assert report["quantiles"] == dict.fromkeys(("p50", "p90", "p99", "p99.9"))
    unknown = ("max_ulp", "least_atol", "needed_tolerance", "frames")
    assert [report[key] for key in unknown] == [None] * 4
