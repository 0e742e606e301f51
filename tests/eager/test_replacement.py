"""nn.Conv3d's own contract, attribute by attribute, with and without the replacement."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from converter.eager import Replacement, replace_conv3d, restore_conv3d
from converter.eager.replacement import Conv2dForward
from converter.errors import UserError

STRATEGIES = ["unfold", "taps", "winograd"]

# Sums of about 400 products of values of about 0.1 to 1, in another order, in float64.
EXACT = 1e-12


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def winograd_for_few_channels(monkeypatch):
    monkeypatch.setattr("converter.eager.replacement._WINOGRAD_CHANNELS", 1)


def table(**attributes):
    """A Conv3d's attributes, named in the test's id."""
    return pytest.param(attributes, id=" ".join(f"{k}={v}" for k, v in attributes.items()))


CONVOLUTIONS = [
    table(kernel_size=3),
    table(kernel_size=3, padding=1),
    table(kernel_size=3, padding=(2, 0, 1), bias=False),
    table(kernel_size=(1, 3, 3), padding=(0, 1, 1)),
    table(kernel_size=(1, 3, 3), padding=(1, 1, 1), stride=(2, 1, 1)),
    table(kernel_size=(3, 1, 1)),
    table(kernel_size=(3, 1, 1), padding=(1, 0, 0)),
    table(kernel_size=(3, 1, 1), padding=(1, 1, 1)),
    table(kernel_size=(2, 1, 1), padding="same"),
    table(kernel_size=(4, 1, 1), stride=(2, 1, 1), dilation=(2, 3, 3)),
    table(kernel_size=(3, 1, 1), stride=(1, 2, 1)),
    table(kernel_size=1),
    table(kernel_size=1, padding=1, stride=2),
    table(kernel_size=1, groups=2),
    table(kernel_size=2),
    table(kernel_size=(2, 4, 3), padding="same"),
    table(kernel_size=(3, 3, 2), padding="same", dilation=(1, 2, 3)),
    table(kernel_size=(4, 2, 3), padding="same", dilation=(2, 1, 1)),
    table(kernel_size=3, padding="valid"),
    table(kernel_size=(3, 2, 5), padding=(1, 0, 2)),
    table(kernel_size=3, stride=2, padding=1),
    table(kernel_size=3, stride=(1, 2, 3), padding=(1, 1, 0)),
    table(kernel_size=3, stride=(3, 1, 2)),
    table(kernel_size=3, dilation=2, padding=2),
    table(kernel_size=3, dilation=(1, 2, 1), padding=1),
    table(kernel_size=(2, 3, 3), dilation=(3, 1, 2), stride=(2, 2, 1), padding=(2, 1, 0)),
    table(kernel_size=3, groups=2, padding=1),
    table(kernel_size=3, groups=4, padding=1),
    table(kernel_size=3, groups=4, stride=2, dilation=(2, 1, 1), padding=(2, 1, 1)),
    table(kernel_size=(5, 3, 3), padding=(2, 1, 1)),
    table(kernel_size=(7, 1, 2)),
    table(kernel_size=3, padding=1, padding_mode="replicate"),
    table(kernel_size=3, padding=(2, 1, 1), padding_mode="reflect"),
    table(kernel_size=3, padding=(1, 2, 0), padding_mode="circular"),
    table(kernel_size=(3, 1, 1), padding=(1, 0, 0), padding_mode="replicate"),
    table(kernel_size=(2, 3, 4), padding="same", padding_mode="reflect"),
    table(kernel_size=(2, 3, 4), padding="same", padding_mode="circular", groups=2),
    table(kernel_size=3, padding="valid", padding_mode="replicate"),
    table(kernel_size=3, padding=1, stride=2, padding_mode="replicate", dilation=(2, 1, 1)),
]
INPUTS = [(1, 4, 9, 8, 7), (3, 4, 11, 7, 7), (4, 10, 7, 8)]


@pytest.mark.usefixtures("winograd_for_few_channels")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("attributes", CONVOLUTIONS)
def test_equals_conv3d(attributes, strategy):
    conv = nn.Conv3d(4, 8, **attributes).double()
    for shape in INPUTS:
        x = torch.randn(shape, dtype=torch.float64)
        expected = conv(x)
        replacement = replace_conv3d(conv, strategy)
        result = conv(x)
        replacement.undo()
        assert replacement.count == 1
        assert result.shape == expected.shape
        assert result.is_contiguous()
        assert (result - expected).abs().max() <= EXACT
        assert torch.equal(conv(x), expected)


@pytest.mark.usefixtures("winograd_for_few_channels")
@pytest.mark.parametrize("frames", range(3, 22))
@pytest.mark.parametrize("groups", [1, 2])
def test_winograd_at_every_length(frames, groups):
    conv = nn.Conv3d(4, 8, 3, padding=(0, 1, 1), groups=groups).double()
    x = torch.randn(2, 4, frames, 5, 4, dtype=torch.float64)
    expected = conv(x)
    assert replace_conv3d(conv, "winograd").replaced == {"": "winograd"}
    assert (conv(x) - expected).abs().max() <= EXACT


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_float32(strategy):
    conv = nn.Conv3d(16, 16, 3, padding=1)
    x = torch.randn(1, 16, 8, 8, 8)
    expected = conv.double()(x.double())
    replace_conv3d(conv.float(), strategy)
    # F(8, 3) is good to about 4e-6 of the results, which are below 3; the others to 1e-6.
    assert (conv(x) - expected).abs().max() <= 2e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kernel_size", [3, (3, 1, 1)])
def test_channels_last(kernel_size, strategy):
    conv = nn.Conv3d(16, 16, kernel_size, padding="same").double()
    conv.to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 16, 5, 6, 7, dtype=torch.float64)
    expected = conv(x)
    replace_conv3d(conv, strategy)
    for memory_format in (torch.contiguous_format, torch.channels_last_3d):
        result = conv(x.to(memory_format=memory_format))
        assert result.is_contiguous()
        assert (result - expected).abs().max() <= EXACT


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("x", [torch.empty(0, 16, 8, 6, 6), torch.randn(1, 16, 3, 3, 3)])
def test_smallest_inputs(x, strategy):
    conv = nn.Conv3d(16, 16, 3)
    expected = conv(x)
    replace_conv3d(conv, strategy)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 5, 6, 6, 6),  # channels
        torch.randn(1, 4, 2, 6, 6),  # fewer frames than taps
        torch.randn(1, 4, 6, 2, 6),  # fewer rows than taps
        torch.randn(6, 6, 6),
        torch.randn(1, 1, 4, 6, 6, 6),
        torch.randn(1, 4, 6, 6, 6, dtype=torch.float64),
    ],
    ids=lambda x: f"{tuple(x.shape)} {x.dtype}",
)
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_conv3d_refuses_is_refused(x, strategy, compute_dtype):
    conv = nn.Conv3d(4, 4, 3)
    replace_conv3d(conv, strategy, compute_dtype)
    with pytest.raises((RuntimeError, ValueError)):
        conv(x)


class CausalConv3d(nn.Conv3d):
    """As in video decoders: pads in front, takes cached frames, and hides its padding."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._front = 2 * self.padding[0]
        self.padding = (0, *self.padding[1:])

    def forward(self, x, cache=None):
        front = self._front
        if cache is not None:
            x = torch.cat([cache, x], dim=2)
            front -= cache.shape[2]
        return super().forward(functional.pad(x, (0, 0, 0, 0, front, 0)))


class HaloConv3d(nn.Conv3d):
    """Takes rows from elsewhere and trims the output, by methods of its own."""

    def forward(self, x):
        return self._trim(self._convolve(functional.pad(x, (0, 0, 2, 2))))

    def _convolve(self, x):
        return nn.Conv3d.forward(self, x)

    def _trim(self, x):
        return x[:, :, :, 1:-1]


class ChunkedConv3d(CausalConv3d):
    def forward(self, x, cache=None):
        return torch.cat([super(ChunkedConv3d, self).forward(c) for c in x.split(1, dim=1)], dim=1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_subclasses_keep_their_forward(strategy):
    x, cache = torch.randn(1, 16, 5, 6, 6), torch.randn(1, 16, 1, 6, 6)
    causal, halo = CausalConv3d(16, 16, 3, padding=1), HaloConv3d(16, 16, 3, padding=(1, 0, 1))
    expected = causal(x), causal(x, cache), halo(x)
    for conv in (causal, halo):
        assert replace_conv3d(conv, strategy).count == 1
    results = causal(x), causal(x, cache), halo(x)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=2e-5, rtol=0)


def test_subclass_of_a_subclass():
    conv = ChunkedConv3d(1, 4, 3, padding=1)
    x = torch.randn(1, 3, 5, 6, 6)
    expected = conv(x)
    assert replace_conv3d(conv).count == 1
    torch.testing.assert_close(conv(x), expected)


class OwnForward(nn.Conv3d):
    def forward(self, x):
        return functional.conv3d(x, self.weight.abs(), self.bias)


class OwnForwardBelow(OwnForward):
    def forward(self, x):
        return super().forward(x) + 1


class OwnConvolution(nn.Conv3d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight.abs(), bias)


class WrappedTensor(torch.Tensor):
    pass


def with_odd_weights():
    conv = nn.Conv3d(2, 2, 3)
    conv.weight = nn.Parameter(conv.weight.detach().as_subclass(WrappedTensor))
    return conv


def already_shadowed():
    conv = nn.Conv3d(2, 2, 3)
    conv._conv_forward = conv._conv_forward
    return conv


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (
            OwnForward(2, 2, 3),
            "the forward of OwnForward does not use the convolution of nn.Conv3d",
        ),
        (OwnForwardBelow(2, 2, 3), "the forward of OwnForwardBelow does not use the convolution"),
        (OwnConvolution(2, 2, 3), "OwnConvolution has a convolution of its own"),
        (nn.LazyConv3d(2, 3), "its weights have no shape before its first call"),
        (with_odd_weights(), "its weights are kept as WrappedTensor"),
        (already_shadowed(), "something else replaced its convolution already"),
    ],
)
def test_refusals_name_the_module(conv, reason):
    model = nn.ModuleDict({"first": nn.Conv3d(2, 2, 3), "odd": nn.Sequential(conv)})
    x = torch.randn(1, 2, 5, 5, 5)
    expected = conv(x) if not isinstance(conv, nn.LazyConv3d) else None
    replacement = replace_conv3d(model)
    assert replacement.replaced == {"first": "unfold"}
    (sentence,) = replacement.refusals
    assert sentence.startswith(f"odd.0: {reason}")
    assert sentence.endswith(".")
    assert expected is None or torch.equal(conv(x), expected)


def test_a_second_replacement_is_refused():
    conv = nn.Conv3d(2, 2, 3)
    replace_conv3d(conv)
    again = replace_conv3d(conv, "taps")
    assert (again.count, again.refusals) == (
        0,
        ("Conv3d: it is replaced already; undo that first.",),
    )


def test_only_conv3d_is_touched():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose3d(2, 2, 3), nn.Linear(2, 2))
    assert replace_conv3d(model) == Replacement({}, (), ())
    assert not any("_conv_forward" in vars(child) for child in model)


def test_strategy_of_every_module_is_reported():
    model = nn.ModuleDict(
        {
            "whole": nn.Conv3d(16, 16, 3),
            "narrow": nn.Conv3d(16, 8, 3),
            "grouped": nn.Conv3d(16, 16, 3, groups=2),
            "strided": nn.Conv3d(16, 16, 3, stride=(2, 1, 1)),
            "strided in space": nn.Conv3d(16, 16, 3, stride=(1, 2, 2)),
            "dilated": nn.Conv3d(16, 16, 3, dilation=2),
            "wide": nn.Conv3d(16, 16, 5),
            "image": nn.Conv3d(16, 16, (1, 3, 3)),
            "time": nn.Conv3d(16, 16, (3, 1, 1)),
            "point": nn.Conv3d(16, 16, 1),
        }
    )
    assert replace_conv3d(model, "winograd").replaced == {
        "whole": "winograd",
        "narrow": "unfold",
        "grouped": "unfold",
        "strided": "unfold",
        "strided in space": "winograd",
        "dilated": "unfold",
        "wide": "unfold",
        "image": "unfold",
        "time": "temporal",
        "point": "temporal",
    }
    restore_conv3d(model)
    replaced = replace_conv3d(model, "taps").replaced
    assert (replaced["whole"], replaced["image"], replaced["time"]) == (
        "taps",
        "unfold",
        "temporal",
    )


def test_shared_module_is_replaced_once():
    conv = nn.Conv3d(2, 2, 3)
    replacement = replace_conv3d(nn.Sequential(conv, conv))
    assert replacement.count == 1
    replacement.undo()
    assert "_conv_forward" not in vars(conv)


def test_undo_leaves_no_trace():
    conv = nn.Conv3d(2, 2, 3)
    before = dict(vars(conv))
    replacement = replace_conv3d(conv)
    replacement.undo()
    replacement.undo()
    assert vars(conv) == before
    assert replace_conv3d(conv).count == 1


def test_unknown_options():
    conv = nn.Conv3d(2, 2, 3)
    with pytest.raises(UserError, match=r"no eager strategy 'fft'; choose one of unfold, taps"):
        replace_conv3d(conv, "fft")
    with pytest.raises(UserError, match=r"torch\.int8 is not a floating-point type"):
        replace_conv3d(conv, compute_dtype=torch.int8)
    assert "_conv_forward" not in vars(conv)


def kept_forms(conv):
    return vars(conv)["_conv_forward"].relaid._forms


# Each keeps weights of its own: transformed ones, cast ones.
KEEPING = [("winograd", None), ("unfold", torch.float64), ("taps", torch.float64)]


@pytest.mark.parametrize(("strategy", "compute_dtype"), KEEPING)
class TestWeightsThatChange:
    """The replacement convolves with the weights that the module has now, not with those it had."""

    def pair(self, strategy, compute_dtype):
        conv = nn.Conv3d(16, 16, 3, padding=1).requires_grad_(False)
        reference = copy.deepcopy(conv)
        replace_conv3d(conv, strategy, compute_dtype)
        conv(torch.randn(1, 16, 5, 6, 6))
        assert kept_forms(conv)
        return conv, reference

    def check(self, conv, reference, dtype=torch.float32):
        x = torch.randn(1, 16, 5, 6, 6, dtype=dtype)
        torch.testing.assert_close(conv(x), reference(x), atol=2e-5, rtol=0)

    def test_kept_until_they_do(self, strategy, compute_dtype):
        conv, _ = self.pair(strategy, compute_dtype)
        forms = dict(kept_forms(conv))
        conv(torch.randn(1, 16, 5, 6, 6))
        assert {k: id(v) for k, v in kept_forms(conv).items()} == {
            k: id(v) for k, v in forms.items()
        }

    def test_state_dict_round_trip(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        assert list(conv.state_dict()) == list(reference.state_dict()) == ["weight", "bias"]
        for name, value in reference.state_dict().items():
            assert torch.equal(conv.state_dict()[name], value)
        file = io.BytesIO()
        torch.save(conv.state_dict(), file)
        file.seek(0)
        fresh = nn.Conv3d(16, 16, 3, padding=1)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        self.check(conv, fresh)

    @pytest.mark.parametrize("assign", [False, True])
    def test_loaded_state_dict_is_respected(self, strategy, compute_dtype, assign):
        conv, reference = self.pair(strategy, compute_dtype)
        other = nn.Conv3d(16, 16, 3, padding=1).state_dict()
        conv.load_state_dict(other, assign=assign)
        reference.load_state_dict(other)
        self.check(conv, reference)

    def test_write_in_place(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        for module in (conv, reference):
            module.weight.mul_(-2)
        self.check(conv, reference)

    def test_other_tensor_in_the_parameter(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        for module in (conv, reference):
            module.weight.data = module.weight.data.flip(0) * 2
        self.check(conv, reference)

    def test_refresh_after_an_uncounted_write(self, strategy, compute_dtype):
        conv = nn.Conv3d(16, 16, 3, padding=1).requires_grad_(False)
        reference = copy.deepcopy(conv)
        replacement = replace_conv3d(conv, strategy, compute_dtype)
        conv(torch.randn(1, 16, 5, 6, 6))
        for module in (conv, reference):
            module.weight.data.mul_(-2)
        replacement.refresh()
        self.check(conv, reference)

    def test_move_to_another_type(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        model = nn.Sequential(conv).to(torch.float64)
        assert not kept_forms(conv)
        self.check(model, reference.double(), torch.float64)

    def test_move_to_another_device(self, strategy, compute_dtype):
        conv, _ = self.pair(strategy, compute_dtype)
        conv.to("meta")
        result = conv(torch.empty(1, 16, 5, 6, 6, device="meta"))
        assert (result.device.type, result.shape) == ("meta", (1, 16, 5, 6, 6))

    def test_copy_is_independent(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        twin = copy.deepcopy(conv)
        assert vars(twin)["_conv_forward"].module is twin
        with torch.no_grad():
            conv.weight.zero_()
        self.check(twin, reference)
        assert restore_conv3d(twin) == 1
        assert isinstance(vars(conv)["_conv_forward"], Conv2dForward)
        self.check(twin, reference)

    def test_pickle(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        stored = pickle.dumps(conv)
        assert len(stored) < 1.2 * len(pickle.dumps(reference))
        self.check(pickle.loads(stored), reference)

    def test_substituted_weights(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        other = {name: value * 3 for name, value in reference.named_parameters()}
        x = torch.randn(1, 16, 5, 6, 6)
        result = torch.func.functional_call(conv, other, x)
        expected = torch.func.functional_call(reference, other, x)
        torch.testing.assert_close(result, expected, atol=5e-5, rtol=0)
        self.check(conv, reference)

    def test_weight_norm(self, strategy, compute_dtype):
        conv = nn.utils.parametrizations.weight_norm(nn.Conv3d(16, 16, 3, padding=1))
        reference = copy.deepcopy(conv)
        assert replace_conv3d(conv, strategy, compute_dtype).count == 1
        self.check(conv, reference)
        with torch.no_grad():
            for module in (conv, reference):
                module.parametrizations.weight.original0.mul_(2)
        self.check(conv, reference)

    def test_inference_mode(self, strategy, compute_dtype):
        conv, reference = self.pair(strategy, compute_dtype)
        with torch.inference_mode():
            self.check(conv, reference)
            made_there = nn.Conv3d(16, 16, 3, padding=1)
            reference = copy.deepcopy(made_there)
            replace_conv3d(made_there, strategy, compute_dtype)
            for _ in range(2):
                self.check(made_there, reference)
                for module in (made_there, reference):
                    module.weight.mul_(2)
