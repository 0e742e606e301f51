import numpy as np
import pytest

from converter.compare.detail import detail
from converter.compare.gates import Gates, Limits, failures, options, passing
from converter.compare.tolerance import Tolerance

pytest.importorskip("skimage")


def found(error: float = 0.25, rtol: float = 0.0, name: str = "y"):
    """A video in 0..1 with one element of frame 1 off by `error`, where the reference is 1."""
    reference = np.zeros((1, 1, 2, 16, 16), np.float32)
    reference[0, 0, :, 4:8, 4:8] = 1
    candidate = reference.copy()
    candidate[0, 0, 1, 4, 4] += np.float32(error)
    return detail(name, reference, candidate, rtol=rtol)


PSNR = 20 * np.log10(1 / (0.25 / np.sqrt(2 * 16 * 16)))


@pytest.mark.parametrize(
    ("limits", "gate", "reached"),
    [
        (Limits(atol=0.2), "atol", 0.25),
        (Limits(rtol=0.2), "atol", 0.05),
        (Limits(min_psnr=40), "min_psnr", PSNR),
        (Limits(min_ssim=0.99999), "min_ssim", None),
    ],
)
def test_names_the_gate_and_what_was_reached(limits, gate, reached):
    one = found(rtol=limits.rtol or 0.0)
    (failure,) = failures(one, Gates(limits))
    assert failure.gate == gate
    if reached is not None:
        assert failure.reached == pytest.approx(reached, rel=1e-6)
    else:  # that of the worst frame, not the mean
        assert failure.reached == one.frames.frames[1].ssim < one.frames.ssim.mean < 1
        assert f"{failure.reached:.4f} of frame 1 is {0.99999 - failure.reached:.2g} below" in (
            failure.sentence
        )


@pytest.mark.parametrize(
    "limits",
    [
        Limits(atol=0.25),
        Limits(rtol=0.25),
        Limits(atol=0.05, rtol=0.2 + 1e-9),
        Limits(min_psnr=found().difference.psnr_db),
        Limits(min_ssim=found().frames.ssim.min),
    ],
)
def test_passes_at_the_limit(limits):
    assert failures(found(rtol=limits.rtol or 0.0), Gates(limits)) == ()


def test_every_failed_gate_is_named():
    gates = Gates(Limits(atol=0.1, min_psnr=60, min_ssim=0.99999))
    assert [f.gate for f in failures(found(), gates)] == ["atol", "min_psnr", "min_ssim"]


def test_a_sentence_says_by_how_much():
    (atol, psnr) = failures(found(), Gates(Limits(atol=0.1, min_psnr=60)))
    assert atol.sentence == "needs --atol 0.25, not 0.1, 2.5 times as much as allowed"
    assert psnr.sentence == f"PSNR {PSNR:.2f} dB is {60 - PSNR:.2f} dB below --min-psnr 60"


def test_an_output_may_have_limits_of_its_own():
    gates = Gates(Limits(atol=0.1, min_psnr=10), {"y": Limits(atol=1.0)})
    assert gates.of("y") == Limits(atol=1.0, min_psnr=10)
    assert failures(found(), gates) == ()
    assert failures(found(name="z"), gates)


def test_without_gates_the_default_decides():
    tolerance = Tolerance(min_psnr_db=60, max_abs_of_range=0.1)
    psnr, worst = failures(found(), Gates(default=tolerance))
    assert (psnr.gate, psnr.limit, psnr.reached) == ("min_psnr", 60, pytest.approx(PSNR))
    assert psnr.sentence.startswith(f"PSNR {PSNR:.2f} dB is {60 - PSNR:.2f} dB below the 60 dB")
    assert (worst.gate, worst.limit, worst.reached) == ("max_abs_of_range", 0.1, 0.25)
    assert failures(found(), Gates(Limits(atol=1.0), default=tolerance)) == ()
    assert failures(found(), Gates()) == ()


def test_what_would_pass_passes_and_a_little_less_does_not():
    one = found(error=0.123456)
    limits = passing(one)
    assert failures(one, Gates(limits)) == ()
    for tighter in (
        Limits(atol=limits.atol * 0.9),
        Limits(min_psnr=limits.min_psnr + 0.1),
        Limits(min_ssim=limits.min_ssim + 1e-4),
    ):
        assert failures(one, Gates(tighter))
    assert options(Limits(atol=0.13, rtol=0.0, min_psnr=45.2)) == "--atol 0.13 --min-psnr 45.2"


def test_no_gate_excuses_a_nan_on_one_side():
    reference = np.ones((1, 1, 1, 12, 12), np.float32)
    candidate = reference.copy()
    candidate[0, 0, 0, 2, 3] = np.nan
    one = detail("y", reference, candidate)
    (failure,) = failures(one, Gates(Limits(atol=1e9)))
    assert (failure.gate, failure.limit, failure.reached) == ("finite", 0, 1)
    assert "(0, 0, 0, 2, 3)" in failure.sentence
    assert passing(one) is None


def test_no_gate_excuses_unequal_integers_or_shapes():
    whole = detail("y", np.arange(4), np.arange(4) + 1)
    (failure,) = failures(whole, Gates(Limits(atol=9)))
    assert (failure.gate, failure.limit, failure.reached) == ("equal", 0, 4)
    equal = detail("y", np.arange(4), np.arange(4))
    assert failures(equal, Gates(Limits(atol=0))) == ()
    shapes = detail("y", np.zeros((2, 3)), np.zeros((3, 2)))
    assert [f.gate for f in failures(shapes, Gates(Limits(atol=9)))] == ["shape"]


def test_ssim_that_cannot_be_known_fails_its_gate():
    small = np.ones((1, 1, 1, 4, 4), np.float32)
    (failure,) = failures(detail("y", small, small), Gates(Limits(min_ssim=0.9)))
    assert "11 x 11" in failure.sentence


def test_ssim_of_a_frame_that_is_not_finite_is_not_known():
    reference = np.ones((1, 1, 3, 12, 12), np.float32)
    reference[0, 0, 1, 0, 0] = np.nan  # on both sides, so that only SSIM has something to say
    (failure,) = failures(detail("y", reference, reference), Gates(Limits(min_ssim=0.9)))
    assert failure.sentence == "SSIM is not known for 1 frames that are not finite"
