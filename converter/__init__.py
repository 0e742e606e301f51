"""Turn the Conv3D nodes of an ONNX graph into exactly equal Conv2D subgraphs.

from converter import convert
result = convert("in.onnx", "out.onnx")
print(result)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from converter import growth
from converter.convert import Options
from converter.errors import UserError
from converter.kernels import GENERIC, Target
from converter.model_file import ExternalData
from converter.precision import CONV, FP32, Precision, Scope
from converter.race import run
from converter.result import ConvertResult
from converter.session import SessionSettings
from converter.tune import tuner
from converter.version import VERSION

__all__ = ["ConvertResult", "UserError", "__version__", "convert"]
__version__ = VERSION


def convert(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    *,
    strategy: str = "auto",
    pins: Mapping[str, str] | None = None,
    accuracy: str = "fast",
    tune: bool = False,
    tuning_cache: str | os.PathLike[str] | None = None,
    layout: bool = True,
    opset: int | None = None,
    target: Target = GENERIC,
    precision: Precision = FP32,
    precision_scope: Scope = CONV,
    external_data: ExternalData = "auto",
    validate: bool = True,
    min_psnr: float | None = None,
    memory_growth: float = growth.DEFAULT,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    provider: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    strict_provider: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    keep_invalid: bool = False,
    dry_run: bool = False,
) -> ConvertResult:
    """Replace every Conv on rank-5 tensors by an equal subgraph of Convs on rank-4 tensors.

    Args:
        input: The ONNX file; it is never written to, unless `output` is the same and `overwrite`.
        output: The file to write; may be None for a dry run.
        strategy: `auto`, `unfold`, `taps`, `pointwise`, `temporal` or `keep`.
        pins: Node name or glob -> strategy, for nodes that shall differ.
        accuracy: `fast` lets `auto` take Winograd, which rounds otherwise; `exact` does not.
        tune: Measure every candidate of every distinct Conv3D, and take the fastest.
        tuning_cache: File of measured times; None for the one in the user's cache folder.
        layout: Keep the tensors between rewritten Convs in frame-major layout.
        opset: The opset to declare; None keeps 11 to 18 and goes, if possible, from elsewhere to
            the nearer of the two.
        target: The runtime that shall take every node: `rocm`, `migraphx`, `cuda`, `cpu`, or
            `generic`. It decides the opset where `opset` is None.
        precision: `fp32` leaves the graph's types as they are; `fp16` and `bf16` halve the weights.
        precision_scope: `conv` for the convolutions alone, `all` for all but norms and softmax.
        external_data: Weights in a file of their own: `auto` where the input has one or the file
            would exceed 256 MB; `always`; `never`.
        validate: Run both graphs on the same feed and compare.
        min_psnr: Least PSNR in dB of every output; None for what the precision explains. `auto`
            gives Winograd smaller tiles, or does without, as far as that takes.
        memory_growth: How much more memory than the original's a run may take, by estimate, in
            percent; `auto` does likewise. `math.inf` sets no limit, nor do sizes that are open.
        shapes: Input name -> shape of the feed, where dimensions are dynamic.
        seed: Of the feed.
        provider: Execution provider of the validation and of `tune`.
        provider_options: Its own options, as onnxruntime documents them.
        strict_provider: Raise if it leaves more than shape arithmetic to another provider.
        overwrite: Whether an existing `output` may be replaced.
        strict: Raise rather than leave a Conv3D in the graph.
        keep_invalid: Write `output` even if the validation fails.
        dry_run: Plan only; write nothing.

    Returns:
        The plan, both graphs in numbers, seconds by phase, and the validation's verdict.

    Raises:
        UserError: the input or the usage is wrong; nothing was written.
        OSError: the output cannot be written; nothing is left half-written.
    """
    settings = SessionSettings(dict(provider_options or {}), strict_provider)
    options = Options(
        strategy=strategy,
        pins=dict(pins or {}),
        accuracy=accuracy,
        choose=tuner(provider, accuracy, tuning_cache, settings=settings) if tune else None,
        layout=layout,
        opset=opset,
        target=target,
        precision=precision,
        precision_scope=precision_scope,
        external_data=external_data,
        validate=validate,
        min_psnr=min_psnr,
        memory_growth=memory_growth,
        shapes=dict(shapes or {}),
        seed=seed,
        provider=provider,
        provider_options=settings.provider_options,
        strict_provider=settings.strict,
        overwrite=overwrite,
        strict=strict,
        keep_invalid=keep_invalid,
        dry_run=dry_run,
    )
    if output is None and not dry_run:
        raise UserError("an output file is needed unless this is a dry run.")
    destination = None if output is None else Path(output)
    return run(Path(input), destination, options, lambda phase: None)
