"""The weights of one convolution in the form that a strategy convolves with.

Forms that are views of the module's own weights are made anew at each call, so they cannot go
stale. Forms that cost something (a cast, a Winograd transform) are kept, and made again as soon as
the weights are other ones: after `module.to(...)`, after an in-place update, after
`load_state_dict`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from converter.rewrites import cook_toom

_F = TypeVar("_F", bound=Callable[..., object])
_Stamp = tuple[int, int, torch.dtype, torch.device]


def assume_constant(function: _F) -> _F:
    """Let torch.compile call the function while it traces, and keep the result as a constant."""
    mark: Callable[[_F], _F] = torch.compiler.assume_constant_result
    return mark(function)


def winograd_matrix(name: str, m: int, tiles: int = 1, frames: int | None = None) -> Tensor:
    """The float64 `g` or `bias` of F(m, 3), or `data` or `output` for so many tiles and frames."""
    if torch.compiler.is_compiling():
        return torch.tensor(_traced_rows(name, m, tiles, frames), dtype=torch.float64)
    return torch.tensor(_matrix(name, m, tiles, frames))


@assume_constant
def _traced_rows(name: str, m: int, tiles: int, frames: int | None) -> list[object]:
    # Numbers, not a tensor: torch.compile takes one constant tensor from a function, not several.
    rows: list[object] = _matrix(name, m, tiles, frames).tolist()
    return rows


def _matrix(name: str, m: int, tiles: int, frames: int | None) -> cook_toom.Array:
    if name == "data":
        return cook_toom.data_matrix(tiles, m, frames)
    if name == "output":
        return cook_toom.output_matrix(tiles, m, frames)
    transform = cook_toom.matrices(m)
    return transform.g if name == "g" else transform.bias


@dataclass(eq=False)
class RelaidWeights:
    """The costly forms of one parameter, and what the parameter was when they were made."""

    _of: weakref.ref[Tensor] | None = None
    _stamp: _Stamp | None = None
    _forms: dict[Hashable, Tensor] = field(default_factory=dict)

    def get(self, weight: Tensor, form: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The form `form` of `weight`, from `make` unless it is kept already."""
        if not _may_keep(weight):
            return make()
        stamp = (weight._version, weight.data_ptr(), weight.dtype, weight.device)
        if self._of is None or self._of() is not weight or self._stamp != stamp:
            # Replaced, not emptied: another thread may be between its check and its look-up.
            self._of, self._stamp, self._forms = weakref.ref(weight), stamp, {}
        forms = self._forms
        if form not in forms:
            # Out of inference mode, so that a later backward pass may go through the result.
            with torch.inference_mode(False), torch.no_grad():
                forms[form] = make()
        return forms[form]

    def forget(self) -> None:
        """Drop every form: to free the memory, or after a write that PyTorch does not count."""
        self._of, self._stamp, self._forms = None, None, {}

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles start empty."""
        return vars(RelaidWeights())


def _may_keep(weight: Tensor) -> bool:
    """Only of a parameter whose changes are seen, and where no gradient shall flow into it.

    Under torch.compile and torch.export the form is part of the traced graph. Weights of other
    types are somebody's substitute for one call (functional_call, torch.func, fake tensors).
    """
    return (
        not torch.compiler.is_compiling()
        and type(weight) is nn.Parameter
        and not weight.is_inference()
        and not (weight.requires_grad and torch.is_grad_enabled())
    )


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on x keep their types."""
    if autocast_dtype(x) is None:
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast, if it is on for x's device, computes convolutions of x in."""
    kind = x.device.type
    # Autocast leaves float64 alone.
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


@dataclass(frozen=True)
class Kernel:
    """Weights (O, C/groups, Kt, Kh, Kw), bias (O,), and the type to compute in, if it is another.

    With a `compute_dtype`, planes, weights and bias are rounded to it at each Conv2d, whose result
    is returned in `result_dtype`.
    """

    weight: Tensor
    bias: Tensor | None
    groups: int
    relaid: RelaidWeights
    compute_dtype: torch.dtype | None
    result_dtype: torch.dtype

    @property
    def size(self) -> tuple[int, int, int]:
        """(Kt, Kh, Kw)."""
        kt, kh, kw = self.weight.shape[2:]
        return kt, kh, kw

    def rows(self) -> Tensor:
        """(O, C/groups, Kt, Kh*Kw), a view: for Kh = Kw = 1, taps as the rows of one plane."""
        return self._cast("rows", lambda: self.weight.flatten(3))

    def all_taps(self) -> Tensor:
        """(O, C/groups * Kt, Kh, Kw), a view: taps innermost, so groups stay together."""
        return self._cast("all_taps", lambda: self.weight.flatten(1, 2))

    def tap(self, index: int) -> Tensor:
        """(O, C/groups, Kh, Kw), a view."""
        return self._cast(("tap", index), lambda: self.weight[:, :, index])

    def winograd(self, m: int) -> Tensor:
        """(J*O, C/groups, Kh, Kw) for F(m, 3), transformed in float64."""

        def transform() -> Tensor:
            # Apple's GPUs have no float64.
            device = "cpu" if self.weight.device.type == "mps" else self.weight.device
            g = winograd_matrix("g", m).to(device)
            double = self.weight.to(device, torch.float64)
            u = torch.einsum("jk,ockhw->jochw", g, double).flatten(0, 1)
            return u.to(self.weight.device, self.compute_dtype or self.weight.dtype)

        return self.relaid.get(self.weight, ("winograd", m, self.compute_dtype), transform)

    def winograd_bias(self, m: int) -> Tensor | None:
        """(J*O,): one product carries the bias."""
        if self.bias is None:
            return None
        carrier = winograd_matrix("bias", m).to(self.bias)
        return torch.outer(carrier, self.bias).flatten()

    def conv2d(
        self,
        planes: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        """functional.conv2d, computed in the compute type if there is one."""
        if self.compute_dtype is None:
            return functional.conv2d(planes, weight, bias, stride, padding, dilation, groups)
        planes = planes.to(self.compute_dtype)
        bias = None if bias is None else bias.to(self.compute_dtype)
        with without_autocast(planes):
            out = functional.conv2d(planes, weight, bias, stride, padding, dilation, groups)
        return out.to(self.result_dtype)

    def _cast(self, form: Hashable, view: Callable[[], Tensor]) -> Tensor:
        target = self.compute_dtype
        if target is None or target == self.weight.dtype:
            return view()
        return self.relaid.get(self.weight, (form, target), lambda: view().to(target))
