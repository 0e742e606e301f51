import pytest

from converter.kernels import GENERIC, TARGETS, Use, kernels_of

FLOAT = {"T": frozenset({"float"}), "X": frozenset({"float"})}


def use(op, since, types=None, domain="", **attributes):
    found = {name: frozenset({t}) for name, t in (types or {"T": "float"}).items()}
    return Use(op, domain, since, found, attributes)


def reason(target, used):
    missing = kernels_of(target).missing(used)
    return None if missing is None else missing.reason


@pytest.mark.parametrize("target", [t for t in TARGETS if t != GENERIC])
def test_every_table_says_which_release_it_is_of(target):
    table = kernels_of(target)
    assert table.provider.endswith("ExecutionProvider")
    assert "onnxruntime" in table.origin
    assert table.origin[-1].isdigit() or "1.27.1" in table.origin
    assert table.newest_opset >= 22
    assert table.newest_ir >= 10


@pytest.mark.parametrize(
    ("op", "since", "taken"),
    [
        ("Conv", 11, True),  # opsets 11 to 21
        ("Conv", 22, False),
        ("Pad", 18, True),
        ("Pad", 19, False),
        (
            "Resize",
            13,
            True,
        ),  # the kernel of 13 to 17 is closed, so it also serves versions between
        ("Resize", 18, True),
        ("Resize", 19, False),
        ("Reshape", 14, True),
        ("Reshape", 19, True),
        ("Reshape", 21, False),
        ("InstanceNormalization", 6, True),
        ("InstanceNormalization", 22, False),
    ],
)
def test_an_open_kernel_of_rocm_serves_its_own_version_alone(op, since, taken):
    types = {"T": "float", "T1": "float"}
    assert (reason("rocm", use(op, since, types)) is None) == taken


@pytest.mark.parametrize("elem_type", ["float", "float16", "bfloat16", "double"])
def test_the_types_of_rocm_conv(elem_type):
    missing = kernels_of("rocm").missing(use("Conv", 11, {"T": elem_type}))
    if elem_type in ("float", "float16"):
        assert missing is None
    else:
        assert missing is not None
        assert missing.types == {elem_type}
        assert missing.reason == (
            f"ROCMExecutionProvider has Conv not for {elem_type}, only for float and float16"
        )


def test_bfloat16_conv_is_cudas_and_migraphxs_at_opset_22_and_nobodys_else():
    takers = {
        target
        for target in TARGETS
        if target != GENERIC and reason(target, use("Conv", 22, {"T": "bfloat16"})) is None
    }
    assert takers == {"cuda", "migraphx"}


@pytest.mark.parametrize(
    ("op", "since", "said"),
    [
        ("Conv", 22, "has Conv up to opset 21, and this is the version of opset 22"),
        ("Pad", 19, "has Pad up to opset 18, and this is the version of opset 19"),
        ("Mish", 18, "has no kernel for Mish"),
        ("Unsqueeze", 0, "has other versions of Unsqueeze than that of opset 0"),
    ],
)
def test_the_reason_says_what_would_help(op, since, said):
    assert reason("rocm", use(op, since)) == f"ROCMExecutionProvider {said}"


def test_onnxruntimes_own_operators_are_looked_up_in_their_domain():
    gelu = use("BiasGelu", 1, domain="com.microsoft")
    assert reason("rocm", gelu) is None
    assert reason("rocm", use("BiasGelu", 1)) is not None
    assert reason("rocm", use("Relu", 14, domain="ai.onnx")) is None


@pytest.mark.parametrize(
    ("op", "attributes", "late", "said"),
    [
        ("Conv", {}, (), None),
        ("Pad", {"mode": "reflect"}, (), None),
        ("Pad", {"mode": "edge"}, (), "does not take Pad with mode=edge"),
        ("Resize", {"mode": "cubic"}, (), "does not take Resize with mode=cubic"),
        ("Slice", {}, (0,), None),
        ("Slice", {}, (0, 1), "takes Slice only where its input 1 is a constant or follows"),
        ("Unique", {}, (), "does not take Unique"),
    ],
)
def test_what_migraphx_does_not_take(op, attributes, late, said):
    missing = kernels_of("migraphx").missing(
        Use(op, "", 18, FLOAT, attributes, run_time_inputs=frozenset(late))
    )
    if said is None:
        assert missing is None
    else:
        assert missing is not None
        assert missing.reason.startswith(f"MIGraphXExecutionProvider {said}")
