"""Random Conv3D over the whole attribute space, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.conv_case import ConvCase
from tests.execute import NEWEST_OPSET
from tests.weight_sources import BIAS_SOURCES, WEIGHT_SOURCES, lowest_opset

# 1 and 3 are drawn more often: they decide the strategy, and decoders are made of them.
_EXTENT = st.sampled_from((1, 1, 2, 3, 3, 4, 5, 6, 7))
_STEP = st.sampled_from((1, 1, 2, 3))
_AUTO_PAD = st.sampled_from((None, None, None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))


def _triples(element: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.tuples(element, element, element)


@st.composite
def _kernels(draw: st.DrawFn) -> tuple[int, int, int]:
    kernel = draw(_triples(_EXTENT))
    kind = draw(st.sampled_from(("any", "any", "pointwise", "temporal")))
    if kind == "pointwise":
        return (1, *kernel[1:])
    if kind == "temporal":
        return (kernel[0], 1, 1)
    return kernel


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    """Legal Conv3D of every attribute, with outputs of at least one element, and small work."""
    kernel = draw(_kernels())
    strides = draw(st.none() | _triples(_STEP))
    dilations = draw(st.none() | _triples(_STEP))
    auto_pad = draw(_AUTO_PAD)
    pads = None
    if auto_pad in (None, "NOTSET"):
        pads = draw(st.none() | st.tuples(*(st.integers(0, 3) for _ in range(6))))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations or (1, 1, 1), strict=True)]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        size = draw(_triples(st.integers(1, 6)))
    else:
        least = [
            max(1, span - (pads[axis] + pads[axis + 3] if pads else 0))
            for axis, span in enumerate(spans)
        ]
        extra = draw(_triples(st.integers(0, 3)))
        size = tuple(low + more for low, more in zip(least, extra, strict=True))

    opset = draw(st.integers(11, NEWEST_OPSET))
    dtype = draw(st.sampled_from(("float32", "float32", "float32", "float16", "float64")))
    # Then the reference evaluator runs the graph, and it knows DequantizeLinear from opset 19 on
    # only; a conversion lowers newer graphs to 18.
    dequantizes = not ((auto_pad or "").startswith("SAME") and dilations)
    weights = draw(st.just("initializer") | st.sampled_from(_sources(dtype, opset, dequantizes)))
    groups = draw(st.sampled_from((1, 1, 2, 3, 4)))
    return ConvCase(
        batch=draw(st.integers(1, 3)),
        groups=groups,
        in_per_group=draw(st.integers(1, 3)),
        out_per_group=draw(st.integers(1, 3)),
        size=size,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        states_kernel=draw(st.booleans()),
        bias=draw(st.booleans()),
        dtype=dtype,
        opset=opset,
        dynamic="".join(sorted(draw(st.sets(st.sampled_from("NTHW"))), key="NTHW".index)),
        weights=weights,
        bias_from=draw(st.sampled_from(BIAS_SOURCES)),
        head=draw(st.sampled_from(("input", "op"))),
        tail=draw(st.sampled_from(("output", "relu", "both"))),
        integers=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def _sources(dtype: str, opset: int, dequantizes: bool) -> list[str]:
    return [
        source
        for source in WEIGHT_SOURCES
        if lowest_opset(source) <= opset
        and ((dtype == "float32" and dequantizes) or not source.startswith("dequantize"))
    ]
