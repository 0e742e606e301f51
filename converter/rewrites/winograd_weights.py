"""The weights and the bias of Winograd's grouped Conv2D, made of a Conv3D's.

Constant weights are transformed in float64 and stored transformed: a runtime that had to do it
would hold them twice or thrice while it loads. Weights stored narrow behind a Cast stay narrow,
for rounding the transformed ones would cost accuracy; then nodes on constants transform them,
which onnxruntime computes while loading.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from converter.constants import Array, is_constant
from converter.conv3d import ConstantWeight, Conv3D
from converter.rewrites.cook_toom import times_taps
from converter.rewrites.emit import Emitter

TAPS = 3


def taps_first(w: Array) -> Array:
    """(O, C/g, 3, Kh, Kw) -> (3, O, C/g, Kh, Kw)."""
    return w.transpose(2, 0, 1, 3, 4)


def taps_and_rows_first(w: Array) -> Array:
    """(O, C/g, 3, 3, Kw) -> (9, O, C/g, 1, Kw)."""
    o, c, _, _, kw = w.shape
    return w.transpose(2, 3, 0, 1, 4).reshape(TAPS * TAPS, o, c, 1, kw)


def channels(conv: Conv3D) -> tuple[int, int]:
    """O and C/g of a Conv where both are known."""
    o, c = conv.weight_shape[:2]
    assert o is not None
    assert c is not None
    return o, c


def kernels(emit: Emitter, g: Array, form: str) -> gs.Tensor:
    """G times the taps: (J*O, C/g, Kh, Kw) if G is (J, 3), (J*O, C/g, 1, Kw) if it is (J, 9).

    Args:
        emit: Takes the nodes.
        g: In float64. It multiplies the taps in time, or those in time and in rows.
        form: A name for it.
    """
    source = emit.conv.weight
    assert isinstance(source, ConstantWeight)
    o, c = channels(emit.conv)
    _, kh, kw = emit.conv.kernel
    rows = TAPS * kh // g.shape[1]
    shape = [len(g) * o, c, rows, kw]
    if not source.chain:
        relay = taps_first if rows == kh else taps_and_rows_first
        return emit.weight(form, shape, lambda w: times_taps(g, relay(w), w.dtype).reshape(shape))
    taps = emit.weight("taps_first", (TAPS, o * c * kh * kw), _flat)
    if rows != kh:
        taps = emit.reshape(taps, [TAPS, o * c, kh, kw], "taps_of_rows")
        taps = emit.transpose(taps, (0, 2, 1, 3), "taps_and_rows")
        taps = emit.reshape(taps, [g.shape[1], o * c * kw], "taps_and_rows_first")
    constant = emit.shop.array(g.astype(emit.conv.x.dtype), "winograd_matrix")
    products = emit.node("MatMul", [constant, taps], f"{form}_weight")
    return emit.reshape(products, shape, f"{form}_kernels")


def biases(emit: Emitter, vector: Array, form: str) -> list[gs.Tensor]:
    """The bias (O,) of the Conv, if it has one, on the products where `vector` is not zero."""
    bias, o = emit.conv.bias, channels(emit.conv)[0]
    if bias is None:
        return []
    if not is_constant(bias):
        column = emit.shop.array(vector[:, None].astype(emit.conv.x.dtype), "winograd_bias")
        row = emit.unsqueeze(bias, 0, f"{form}_bias_row")
        products = emit.node("MatMul", [column, row], f"{form}_bias")
        return [emit.reshape(products, [-1], f"{form}_biases")]
    return [
        emit.shop.derived(
            bias,
            form,
            (len(vector) * o,),
            lambda b: np.kron(vector, b.astype(np.float64)).astype(b.dtype),
        )
    ]


def _flat(w: Array) -> Array:
    return taps_first(w).reshape(TAPS, -1)
