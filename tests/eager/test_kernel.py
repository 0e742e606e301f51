"""Types, gradients and tracing: what is convolved in, and where weights may be kept."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from converter.eager import replace_conv3d

STRATEGIES = ["unfold", "taps", "winograd"]
BF16_ULP = 2.0**-8  # half the distance of neighbours is at most this, relative to the value


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(strategy, compute_dtype=None, **attributes):
    """(replaced, reference) with the same weights."""
    reference = nn.Conv3d(16, 16, **{"kernel_size": 3, "padding": 1, **attributes})
    conv = copy.deepcopy(reference)
    assert replace_conv3d(conv, strategy, compute_dtype).count == 1
    return conv, reference


def rounded_once(reference, x):
    """The float64 convolution of everything rounded to bf16: what bf16 kernels round to bf16."""
    weight, bias = (p.bfloat16().double() for p in (reference.weight, reference.bias))
    padding = reference.padding
    return functional.conv3d(x.bfloat16().double(), weight, bias, padding=padding)


@torch.no_grad()
@pytest.mark.parametrize("attributes", [{}, {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}])
def test_bf16_rounds_weights_activations_and_result_once(attributes):
    conv, reference = pair("unfold", torch.bfloat16, **attributes)
    x = torch.randn(1, 16, 6, 6, 6)
    y = conv(x)
    exact = rounded_once(reference, x)
    assert y.dtype == torch.float32
    assert torch.equal(y, y.bfloat16().float())
    # The only rounding left is that of the result (and of fp32 sums: 1e-6).
    assert ((y - exact).abs() <= BF16_ULP * exact.abs() + 1e-6).all()
    # PyTorch's own bf16 Conv3d agrees, but where a sum lies on the edge between two neighbours.
    direct = copy.deepcopy(reference).bfloat16()(x.bfloat16()).float()
    assert ((y - direct).abs() <= 2 * BF16_ULP * exact.abs() + 1e-6).all()
    assert (y == direct).float().mean() >= 0.99


@torch.no_grad()
def test_bf16_taps_round_every_product_and_sum_in_fp32():
    conv, reference = pair("taps", torch.bfloat16)
    x = torch.randn(1, 16, 6, 6, 6)
    padded = functional.pad(x, (0, 0, 0, 0, 1, 1)).bfloat16()
    weight = reference.weight.bfloat16()
    expected = torch.zeros(16, 6, 6, 6)
    for tap in range(3):
        bias = reference.bias.bfloat16() if tap == 0 else None
        planes = padded[0, :, tap : tap + 6].transpose(0, 1)
        product = functional.conv2d(planes, weight[:, :, tap], bias, padding=1)
        expected += product.float().transpose(0, 1)
    assert torch.equal(conv(x)[0], expected)


@torch.no_grad()
def test_bf16_winograd_stays_within_its_budget():
    conv, reference = pair("winograd", torch.bfloat16)
    x = torch.randn(1, 16, 11, 6, 6)
    exact = reference.double()(x.double())
    # F(4, 3) at most, 7.5e-3 a layer by the table of errors; F(8, 3) would make 4.2e-2.
    assert (conv(x) - exact).norm() <= 1e-2 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_module_of_a_small_type(strategy, dtype):
    conv, reference = pair(strategy)
    x = torch.randn(1, 16, 8, 6, 6)
    exact = reference.double()(x.double())
    y = conv.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    budget = {torch.bfloat16: 1e-2, torch.float16: 1.3e-3}[dtype]
    assert (y - exact).norm() <= budget * exact.norm()


@torch.no_grad()
def test_winograd_takes_smaller_tiles_where_fp32_products_are_rounded():
    conv, _ = pair("winograd")
    x = torch.randn(1, 16, 8, 6, 6)

    def tiles():
        conv(x)
        return [form[1] for form in vars(conv)["_conv_forward"].relaid._forms]

    assert tiles() == [8]
    torch.set_float32_matmul_precision("high")
    try:
        assert tiles() == [8, 4]
    finally:
        torch.set_float32_matmul_precision("highest")


@torch.no_grad()
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_autocast(strategy, compute_dtype):
    conv, reference = pair(strategy, compute_dtype)
    x = torch.randn(1, 16, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = conv(x), reference(x)
        in_double = conv.double()(x.double())
    exact = reference.double()(x.double())
    assert y.dtype == expected.dtype == torch.bfloat16
    assert (y - exact).norm() <= 1.2e-2 * exact.norm()
    assert in_double.dtype == torch.float64  # autocast leaves it alone


@torch.no_grad()
def test_compute_type_rules_within_autocast():
    conv, reference = pair("unfold", torch.float64)
    x = torch.randn(1, 16, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    exact = reference.double()(x.double())
    assert torch.equal(y, exact.bfloat16())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients(strategy, frozen):
    conv, reference = (module.double() for module in pair(strategy))
    x = torch.randn(2, 16, 7, 5, 5, dtype=torch.float64)
    with torch.inference_mode():
        conv(x)  # whatever is kept from here must not stand in the way
    leaves = []
    for module in (conv, reference):
        module.weight.requires_grad_(not frozen)
        leaf = x.clone().requires_grad_()
        leaves.append(leaf)
        module(leaf).square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(conv.bias.grad, reference.bias.grad, atol=1e-10, rtol=1e-10)
    if frozen:
        assert conv.weight.grad is None
    else:
        torch.testing.assert_close(conv.weight.grad, reference.weight.grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_step_is_seen(strategy):
    conv, reference = (module.double() for module in pair(strategy, torch.float32))
    x = torch.randn(1, 16, 6, 5, 5, dtype=torch.float64)
    for module in (conv, reference):
        with torch.no_grad():
            module(x)
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        module(x).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        # Computed in fp32, gradients too: 1e-6 of values of about 1.
        torch.testing.assert_close(conv(x), reference(x), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("compute_dtype", [None, torch.float64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_compile_traces_one_graph_that_sees_the_weights(strategy, compute_dtype):
    conv, reference = pair(strategy, compute_dtype)
    x = torch.randn(1, 16, 7, 6, 6)
    conv(x)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), reference(x), atol=2e-5, rtol=0)
        for module in (conv, reference):
            module.weight.mul_(-1.5)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_export(strategy):
    conv, reference = pair(strategy)
    x = torch.randn(1, 16, 7, 6, 6)
    program = torch.export.export(conv, (x,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.conv2d.default" in targets
    assert "aten.conv3d.default" not in targets
    torch.testing.assert_close(program.module()(x), reference(x), atol=2e-5, rtol=0)
