"""What `auto` chooses when times are measured: every candidate of every distinct Conv3D, run.

Each candidate is run as a graph of that one Conv, between tensors in frame-major layout, as it
will be in the converted graph; `keep` is run as it stands in the original.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.choice import FAST, Choice, candidates, cheapest
from converter.conv3d import AutoPad, Conv3D
from converter.convert import Options, run_once
from converter.cost import RATES
from converter.kernels import GENERIC
from converter.providers import choose, make_session
from converter.rewrites import KEEP
from converter.session import PLAIN, Session, SessionSettings, onnxruntime
from converter.tuning_cache import Bench, TuningCache, default_path, device_name

ROUNDS = 5
SWAP = [0, 2, 1, 3, 4]
NOISE = 1.05
"""Times this close are taken as equal; a rewrite is then preferred to `keep`."""

NOISE_SECONDS = 1e-4
"""And so are times that differ by less than this."""


@dataclass
class Tuner:
    """A `converter.choice.Chooser` that measures.

    Attributes:
        cache: Where times are looked up and kept.
        bench: Where times are measured.
        provider: Name of the execution provider, as `converter.providers.make_session` takes it.
        settings: Of the sessions that are timed.
        notify: Hears, for each measurement, the Conv3D's name and the strategy.
    """

    cache: TuningCache
    bench: Bench
    provider: str
    target: str = GENERIC
    accuracy: str = FAST
    notify: Callable[[str, str], None] = lambda node, strategy: None
    settings: SessionSettings = PLAIN
    _choices: dict[str, Choice] = field(default_factory=dict)

    def __call__(self, conv: Conv3D) -> Choice:
        """The fastest candidate, from the cache or measured now.

        Where sizes are dynamic, or the type is not fp32, nothing can be run: the estimate decides.
        """
        signature = signature_of(conv)
        if signature is None:
            choice = cheapest(conv, self.target, self.accuracy)
            reason = f"{choice.reason} (not measured: sizes are dynamic or the type is not fp32)"
            return Choice(choice.strategy, reason, choice.refused, choice.seconds)
        if signature not in self._choices:
            self._choices[signature] = self._measure(conv, signature)
        return self._choices[signature]

    def _measure(self, conv: Conv3D, signature: str) -> Choice:
        names = [KEEP, *candidates(conv, self.target, self.accuracy)]
        known = dict(self.cache.get(self.bench, signature))
        missing = [name for name in names if name not in known]
        if missing:
            # All are run anew, in turn, so that they meet the same conditions.
            known = self._race(conv, signature, names)
        seconds = {name: known[name] for name in names}
        handicap = {KEEP: (NOISE, NOISE_SECONDS)}

        def judged(name: str) -> float:
            factor, offset = handicap.get(name, (1.0, 0.0))
            return seconds[name] * factor + offset

        best = min(seconds, key=judged)
        ranking = sorted(seconds, key=lambda name: seconds[name])
        times = ", ".join(f"{name} {seconds[name] * 1e3:.3g} ms" for name in ranking)
        why = "the fastest" if best == ranking[0] else f"as fast as {ranking[0]} within noise, as"
        return Choice(best, f"{why} measured: {times}", seconds=seconds)

    def _race(self, conv: Conv3D, signature: str, names: Sequence[str]) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="convert-vae-tune-") as folder:
            sessions = {}
            for name in names:
                self.notify(conv.name, name)
                path = _candidate(conv, name, Path(folder))
                sessions[name] = make_session(path, self.provider, self.settings)
            times = _interleaved(sessions)
        for name, seconds in times.items():
            self.cache.put(self.bench, signature, name, seconds)
        return times


def tuner(
    provider: str,
    accuracy: str = FAST,
    cache_path: str | os.PathLike[str] | None = None,
    notify: Callable[[str, str], None] = lambda node, strategy: None,
    settings: SessionSettings = PLAIN,
) -> Tuner:
    """A tuner on a provider of this machine, whose options in `settings` count as part of it.

    Raises:
        UserError: the provider is not usable here, or the cache is not one.
    """
    usable = choose(provider)
    options = [f"{name}={value}" for name, value in sorted(settings.provider_options.items())]
    provider_id = " ".join([usable.id, *options])
    device, threads = device_name(usable.id), os.cpu_count() or 1
    bench = Bench(provider_id, onnxruntime().__version__, device, threads)
    cache = TuningCache(Path(cache_path) if cache_path is not None else default_path())
    target = usable.name if usable.name in RATES else GENERIC
    loose = replace(settings, strict=False)
    return Tuner(cache, bench, usable.name, target, accuracy, notify, loose)


def signature_of(conv: Conv3D) -> str | None:
    """All that the time of a Conv3D depends on, as one line; None if it cannot be run alone."""
    dims = (*conv.x_shape, *conv.y_shape, *conv.weight_shape)
    if not all(isinstance(d, int) for d in dims) or conv.x.dtype != np.dtype(np.float32):
        return None
    if isinstance(conv.time_pads, AutoPad) or isinstance(conv.plane_pads, AutoPad):
        return None
    x, w = ("x".join(map(str, shape)) for shape in (conv.x_shape, conv.weight_shape))
    return f"float32 {x} * {w} {conv.attributes}"


def _interleaved(sessions: Mapping[str, Session]) -> dict[str, float]:
    """The least seconds of each session, run in turn after one run that does not count.

    Whatever else the machine does can only add to them.
    """
    rng = np.random.default_rng(0)
    feeds = {}
    for name, session in sessions.items():
        (x,) = session.inputs
        shape = [d if isinstance(d, int) else 1 for d in x.shape]
        feeds[name] = {x.name: rng.standard_normal(shape, dtype=np.float32)}
        session.run(feeds[name])
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(feeds[name])
            times[name].append(time.perf_counter() - start)
    return {name: min(samples) for name, samples in times.items()}


def _candidate(conv: Conv3D, strategy: str, folder: Path) -> Path:
    """A file with that one Conv: as it is for `keep`, else between frame-major tensors."""
    source = folder / f"{strategy}.original.onnx"
    onnx.save(_single_conv(conv, frame_major=strategy != KEEP), source)
    if strategy == KEEP:
        return source
    target = folder / f"{strategy}.onnx"
    run_once(source, target, Options(strategy=strategy, validate=False), lambda phase: None)
    return target


def _single_conv(conv: Conv3D, frame_major: bool) -> onnx.ModelProto:
    """X -> Conv -> y, or x (N, T, C, H, W) -> Transpose -> Conv -> Transpose -> y.

    For N = 1 the frame-major tensors are (T, C, H, W), which is what rewrites make of them.
    """
    rng = np.random.default_rng(0)
    x_shape = [int(d) for d in conv.x_shape if isinstance(d, int)]
    y_shape = [int(d) for d in conv.y_shape if isinstance(d, int)]
    w_shape = [int(d) for d in conv.weight_shape if d is not None]
    scale = np.float32(1 / math.sqrt(math.prod(w_shape[1:])))
    weight = rng.standard_normal(w_shape, dtype=np.float32) * scale
    constants = [numpy_helper.from_array(weight, "weight")]
    assert not isinstance(conv.time_pads, AutoPad)
    assert not isinstance(conv.plane_pads, AutoPad)
    top, left, bottom, right = conv.plane_pads
    begin, end = conv.time_pads
    inputs = ["x", "weight"]
    if conv.bias is not None:
        constants.append(numpy_helper.from_array(np.zeros(w_shape[0], np.float32), "bias"))
        inputs.append("bias")
    node = helper.make_node(
        "Conv",
        inputs,
        ["y"],
        name="conv",
        group=conv.group,
        strides=conv.stride,
        dilations=conv.dilation,
        pads=[begin, top, left, end, bottom, right],
    )
    nodes = [node]
    shapes = {"x": x_shape, "y": y_shape}
    ends = ("x", "y")
    if frame_major:
        nodes, ends = _between_frames(node, batched=x_shape[0] != 1)
        constants.append(numpy_helper.from_array(np.array([0], np.int64), "batch_axis"))
        for name, shape in (("x", x_shape), ("y", y_shape)):
            swapped = [shape[axis] for axis in SWAP]
            shapes[f"{name}_frames"] = swapped if shape[0] != 1 else swapped[1:]
    infos = [helper.make_tensor_value_info(e, TensorProto.FLOAT, shapes[e]) for e in ends]
    graph = helper.make_graph(nodes, "single_conv", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _between_frames(
    conv: onnx.NodeProto, batched: bool
) -> tuple[list[onnx.NodeProto], tuple[str, str]]:
    into = [helper.make_node("Transpose", ["x5"], ["x"], perm=SWAP)]
    out = [helper.make_node("Transpose", ["y"], ["y5"], perm=SWAP)]
    if batched:
        into[0].input[0], out[0].output[0] = "x_frames", "y_frames"
    else:
        into.insert(0, helper.make_node("Unsqueeze", ["x_frames", "batch_axis"], ["x5"]))
        out.append(helper.make_node("Squeeze", ["y5", "batch_axis"], ["y_frames"]))
    return [*into, conv, *out], ("x_frames", "y_frames")
