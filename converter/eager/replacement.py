"""Put Conv2d into the nn.Conv3d modules of a model, and take it out again.

Only `_conv_forward` of an instance is shadowed: the method in which nn.Conv3d convolves, after
whatever the forward of a subclass does (causal caches, halo exchange, chunks). Class, parameters,
buffers, hooks and state_dict stay what they were. The module's attributes are read at each call, so
those that a subclass changes after construction are respected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from converter.eager.convolution import Geometry, Triple, convolve
from converter.eager.kernel import Kernel, RelaidWeights, autocast_dtype
from converter.errors import UserError

STRATEGIES = ("unfold", "taps", "winograd")

# Fewer channels do not fill the blocks that convolution kernels work in, and Winograd's transforms
# cost more than the products saved.
_WINOGRAD_CHANNELS = 16


@dataclass(eq=False)
class Conv2dForward:
    """What takes the place of `_conv_forward` on one nn.Conv3d."""

    module: nn.Conv3d
    strategy: str
    compute_dtype: torch.dtype | None
    relaid: RelaidWeights = field(default_factory=RelaidWeights)

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of input (N, C, T, H, W) or (C, T, H, W), as nn.Conv3d does it."""
        module, autocast = self.module, autocast_dtype(input)
        legal = input.dim() in (4, 5) and (input.dtype == weight.dtype or autocast is not None)
        x = input if input.dim() == 5 else input.unsqueeze(0)
        if legal and module.padding_mode != "zeros":
            pads = module._reversed_padding_repeated_twice
            x = functional.pad(x, pads, mode=module.padding_mode)
        geometry = _geometry(module)
        if not legal or geometry.frames_out(x.shape[2], weight.shape[2]) < 1:
            # nn.Conv3d has the words for it.
            return cast(Tensor, nn.Conv3d._conv_forward(module, input, weight, bias))
        kernel = Kernel(
            weight=weight,
            bias=bias,
            groups=module.groups,
            relaid=self.relaid,
            compute_dtype=self.compute_dtype,
            result_dtype=autocast or input.dtype,
        )
        y = convolve(x, kernel, geometry, strategy_for(module, self.strategy))
        return y if input.dim() == 5 else y.squeeze(0)

    def apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """nn.Module._apply, which .to(), .half() and .cuda() go through; kept weights are freed."""
        self.relaid.forget()
        move = cast(Callable[..., nn.Module], type(self.module)._apply)
        return move(self.module, fn, recurse)


@dataclass
class Replacement:
    """What `replace_conv3d` did.

    ``replaced`` maps the name of each replaced module to the strategy it runs; ``refusals`` says,
    in a sentence that names the module, why another was left as it was.
    """

    replaced: Mapping[str, str]
    refusals: tuple[str, ...]
    modules: tuple[nn.Conv3d, ...] = field(repr=False)

    @property
    def count(self) -> int:
        """How many modules were replaced."""
        return len(self.modules)

    def undo(self) -> None:
        """Let every replaced module convolve as it did before. Harmless when repeated."""
        for module in self.modules:
            detach(module)

    def refresh(self) -> None:
        """Relay kept weights at the next call.

        Needed only after a write to `parameter.data` in place, which PyTorch does not count; other
        changes of the weights are seen.
        """
        for module in self.modules:
            if isinstance(forward := vars(module).get("_conv_forward"), Conv2dForward):
                forward.relaid.forget()


def replace_conv3d(
    module: nn.Module, strategy: str = "unfold", compute_dtype: torch.dtype | None = None
) -> Replacement:
    """Let every nn.Conv3d in `module` (itself included) compute by 2-D convolutions.

    Args:
        module: Any module; it is changed in place. Its state_dict stays as it is, in keys and
            values, and may be loaded, moved, cast, copied or compiled afterwards.
        strategy: `unfold`, `taps` or `winograd` (fewer products, for kernels of 3 frames without
            stride or dilation in time; others are unfolded). Kernels of 1x1 in space always become
            one Conv2d over (T, H*W).
        compute_dtype: Round weights, once, and activations, at each convolution, to this type, and
            return results in the type they would have had. None computes in the module's own type,
            and results are equal up to the order of sums.

    Returns:
        How many were replaced, which were refused and why, and `undo()`.

    Raises:
        UserError: there is no such strategy, or `compute_dtype` is not a floating-point type.

    Gradients flow as through nn.Conv3d. Relaid weights are then not kept, so training is slower
    than inference under torch.no_grad().
    """
    check_options(strategy, compute_dtype)
    replaced: dict[str, str] = {}
    refusals: list[str] = []
    modules: list[nn.Conv3d] = []
    for name, child in module.named_modules():
        if not isinstance(child, nn.Conv3d):
            continue
        reason = refusal(child)
        if reason is not None:
            refusals.append(f"{name or type(child).__name__}: {reason}.")
            continue
        attach(child, strategy, compute_dtype)
        replaced[name] = strategy_for(child, strategy)
        modules.append(child)
    return Replacement(replaced, tuple(refusals), tuple(modules))


def restore_conv3d(module: nn.Module) -> int:
    """Undo replace_conv3d in `module`, a copy perhaps; returns for how many modules within."""
    return sum(detach(child) for child in module.modules())


def check_options(strategy: str, compute_dtype: torch.dtype | None) -> None:
    """Raise UserError for what `replace_conv3d` cannot take."""
    if strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise UserError(f"there is no eager strategy {strategy!r}; choose one of {known}.")
    if compute_dtype is not None and not compute_dtype.is_floating_point:
        raise UserError(f"{compute_dtype} is not a floating-point type to compute in.")


def attach(module: nn.Conv3d, strategy: str, compute_dtype: torch.dtype | None) -> None:
    """Shadow the module's convolution."""
    forward = Conv2dForward(module, strategy, compute_dtype)
    vars(module)["_conv_forward"] = forward
    vars(module)["_apply"] = forward.apply


def detach(module: nn.Module) -> bool:
    """Undo `attach`; False if there is nothing to undo."""
    if not isinstance(vars(module).get("_conv_forward"), Conv2dForward):
        return False
    del vars(module)["_conv_forward"], vars(module)["_apply"]
    return True


def refusal(module: nn.Conv3d) -> str | None:
    """Why the module is left as it is, or None."""
    kind = type(module)
    shadowed = vars(module).get("_conv_forward")
    if isinstance(shadowed, Conv2dForward):
        return "it is replaced already; undo that first"
    if shadowed is not None:
        return "something else replaced its convolution already"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "its weights have no shape before its first call"
    if kind._conv_forward is not nn.Conv3d._conv_forward:
        return f"{kind.__name__} has a convolution of its own"
    if not _reaches_convolution(kind):
        return f"the forward of {kind.__name__} does not use the convolution of nn.Conv3d"
    if type(module.weight) not in (nn.Parameter, Tensor):
        return f"its weights are kept as {type(module.weight).__name__}"
    return None


def strategy_for(module: nn.Conv3d, strategy: str) -> str:
    """The strategy that the module's attributes allow, where `strategy` is preferred."""
    kt, kh, kw = module.kernel_size
    no_planes = isinstance(module.padding, str) or not any(module.padding[1:])
    if (kh, kw) == (1, 1) and module.stride[1:] == (1, 1) and no_planes:
        return "temporal"
    if strategy == "winograd":
        channels = min(module.in_channels, module.out_channels) // module.groups
        unit = module.stride[0] == module.dilation[0] == 1
        return "winograd" if kt == 3 and unit and channels >= _WINOGRAD_CHANNELS else "unfold"
    return strategy if kt > 1 else "unfold"


def _geometry(module: nn.Conv3d) -> Geometry:
    """Read now: a subclass may change its attributes after construction."""
    return Geometry(
        stride=cast(Triple, module.stride),
        pads=(_zero_pads(module, 0), _zero_pads(module, 1), _zero_pads(module, 2)),
        dilation=cast(Triple, module.dilation),
    )


def _zero_pads(module: nn.Conv3d, axis: int) -> tuple[int, int]:
    padding = module.padding
    if module.padding_mode != "zeros" or padding == "valid":
        return 0, 0
    if isinstance(padding, str):  # "same"
        total = module.dilation[axis] * (module.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    return padding[axis], padding[axis]


def _reaches_convolution(kind: type, above: int = 0) -> bool:
    """Whether the forward of `kind`, read from its code, ends in nn.Conv3d's own.

    `above` is how many classes of its resolution order are passed over already. Methods that
    forward names are followed.
    """
    classes = kind.__mro__[: kind.__mro__.index(nn.Conv3d)]
    defining = next((i for i in range(above, len(classes)) if "forward" in vars(classes[i])), None)
    if defining is None:
        return True
    names: set[str] = set()
    found = [vars(classes[defining])["forward"]]
    while found:
        new = _names_used(found.pop()) - names
        names |= new
        found += [vars(c)[name] for name in new - {"forward"} for c in classes if name in vars(c)]
    if "_conv_forward" in names:
        return True
    calls_base = "forward" in names and ("super" in names or "Conv3d" in names)
    return calls_base and _reaches_convolution(kind, defining + 1)


def _names_used(function: object) -> set[str]:
    """Globals, attributes and methods that a Python function names, nested functions included."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    names: set[str] = set()
    waiting = [code] if code else []
    while waiting:
        block = waiting.pop()
        names.update(block.co_names)
        waiting += [constant for constant in block.co_consts if isinstance(constant, CodeType)]
    return names
