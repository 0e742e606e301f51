"""Constants of a linked graph: initializers and Constant nodes, read and derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from converter.surgeon import Surgery
from converter.weights import Computed, WeightTable

Array = npt.NDArray[Any]

SCALAR_ATTRIBUTES = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether a tensor's values are fixed in the file as a tensor, without reading them."""
    return _holder(tensor) is not None


def constant_values(tensor: gs.Tensor, weights: WeightTable) -> Array | None:
    """The values of a constant tensor, else None. Bulky ones are read anew at each call."""
    holder = _holder(tensor)
    if holder is not None:
        values = holder._values
        return values if isinstance(values, np.ndarray) else weights.array(values.tensor)
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        for key, dtype in SCALAR_ATTRIBUTES.items():
            if key in tensor.inputs[0].attrs:
                return np.asarray(tensor.inputs[0].attrs[key], dtype)
    return None


def constant_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape of a constant tensor, without reading it; None if it is not constant."""
    holder = _holder(tensor)
    return None if holder is None else tuple(int(d) for d in holder.shape)


def _holder(tensor: gs.Tensor) -> gs.Constant | None:
    if isinstance(tensor, gs.Constant):
        # A sparse one is left to the runtime: graph-surgeon does not read its raw data.
        return None if isinstance(tensor._values, SparseValues) else tensor
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        value = tensor.inputs[0].attrs.get("value")
        return value if isinstance(value, gs.Constant) else None
    return None


@dataclass
class Workshop:
    """Makes the new constants of a model; equal ones are made once."""

    surgery: Surgery
    weights: WeightTable
    _made: dict[tuple[str, ...], gs.Constant] = field(default_factory=dict)

    def ints(self, values: Sequence[int]) -> gs.Constant:
        """A 1-D int64 constant."""
        return self.array(np.array(values, np.int64), "ints")

    def array(self, values: Array, what: str) -> gs.Constant:
        """A constant with these values; small integer ones say their values in their names."""
        key = (what, str(values.dtype), str(values.shape), values.tobytes().hex())
        if key not in self._made:
            small = values.ndim == 1 and values.dtype == np.int64 and values.size <= 8
            wish = "_".join([what, *map(str, values)]) if small else what
            self._made[key] = gs.Constant(self.surgery.unique_name(wish), values)
        return self._made[key]

    def derived(
        self,
        root: gs.Tensor,
        form: str,
        shape: Sequence[int],
        derive: Callable[[Array], Array],
        data_type: int | None = None,
    ) -> gs.Constant:
        """A new initializer `derive(root)` of `shape`, computed when the file is written.

        Its type is that of `root`, or `data_type`, an ONNX element type, which `derive` returns.
        Whoever asks for the same `form` of the same constant gets the same initializer.
        """
        holder = _holder(root)
        assert holder is not None, root.name
        key = ("derived", str(id(holder)), form)
        if key not in self._made:
            tensor = onnx.TensorProto(
                name=self.surgery.unique_name(f"{root.name}.{form}"),
                data_type=_onnx_type(holder.dtype) if data_type is None else data_type,
                dims=list(shape),
            )

            def compute() -> Array:
                values = constant_values(holder, self.weights)
                assert values is not None
                return np.ascontiguousarray(derive(values))

            self.weights.put(tensor, Computed(compute))
            self._made[key] = gs.Constant(tensor.name, LazyValues(tensor))
        return self._made[key]


def _onnx_type(dtype: Any) -> int:
    if isinstance(dtype, int):
        return dtype
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
