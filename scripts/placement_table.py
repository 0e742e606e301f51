"""Convert a decoder of every family for AMD's runtimes, and print where its nodes run, in Markdown.

    python -m scripts.placement_table                       # small configurations, minutes
    python -m scripts.placement_table --precision bf16 Wan  # only the families named
    python -m scripts.placement_table --graph decoder.onnx  # a graph of one's own, of any size

Both the real partitioners of the released packages and the static check (`check-vae`) are asked;
nodes that are computed while loading, such as Casts of weights, count for neither.
The packages are installed into `--machines` (80 MB), beside stand-ins for the GPU's libraries; see
tests/rocm/machine.py for what that proves and what not. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

import converter
from converter import convert_stream, manifest
from converter.convert import Options
from converter.export import export
from converter.export_stream import export_stream
from converter.kernels import Target
from converter.placement import Placement
from converter.precision import PRECISIONS, Precision
from models.source import FAMILIES
from tests.rocm.asking import ask
from tests.rocm.conftest import MIGRAPHX, ROCM
from tests.rocm.machine import Machine, make_machine
from tests.small_families import SMALL

LATENT = (1, 4, 3, 5, 4)
STREAMED = "Wan"
CHUNK = 2

WORK = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Softmax", "Resize", "Pad")
NORMS = ("Reduce", "InstanceNormalization", "LayerNormalization")
"""How the operators begin that norms are made of."""

HEADER = (
    "| graph | nodes | on ROCm | by the check | of its products, norms, Resizes, Pads | elsewhere "
    "| on MIGraphX | by the check |\n"
    "|---|---:|---:|---:|---:|---|---:|---:|"
)

Converted = tuple[Path, Placement]


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help="only these")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--graph", type=Path, help="this graph instead of the families")
    parser.add_argument("--machines", type=Path, help="folder to install into, and to use again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        machines = arguments.machines or folder / "machines"
        rocm, migraphx = (make_machine(*which, machines / which[2]) for which in (ROCM, MIGRAPHX))
        print(HEADER, flush=True)
        if arguments.graph:
            graphs = iter([(arguments.graph.name, arguments.graph)])
        else:
            graphs = _families(folder, arguments.family)
        for name, source in graphs:
            one = _converted(source, folder, "rocm", arguments.precision)
            two = _converted(source, folder, "migraphx", arguments.precision)
            for role, on_rocm, on_migraphx in zip(one, one.values(), two.values(), strict=True):
                print(_row(name + role, rocm, on_rocm, migraphx, on_migraphx), flush=True)


def _families(folder: Path, chosen: list[str]) -> Iterator[tuple[str, Path]]:
    """Each family's small decoder for fixed sizes and for any, and Wan's stream."""
    for family in FAMILIES:
        if chosen and family.name not in chosen:
            continue
        source = folder / family.name
        source.mkdir()
        config = SMALL[family.name] | {"_class_name": family.upstream.__name__}
        (source / "config.json").write_text(json.dumps(config))
        for dynamic in (False, True):
            out = source / "clip.onnx"
            settings = {"seed": 0, "latent": LATENT, "check": False, "overwrite": True}
            export(str(source), out, dynamic=dynamic, **settings)
            yield family.name + (", any T, H, W" if dynamic else ""), out
        if family.name == STREAMED:
            out = source / "stream.json"
            latent = (*LATENT[:2], CHUNK, *LATENT[3:])
            export_stream(str(source), out, chunk=CHUNK, seed=0, latent=latent, check=False)
            yield f"{family.name}, stream, ", out


def _converted(
    source: Path, folder: Path, target: Target, precision: Precision
) -> dict[str, Converted]:
    """By role in a stream, or by an empty string: the converted graph and the static check."""
    if manifest.is_manifest(source):
        out = folder / f"{target}.json"
        options = Options(target=target, precision=precision, validate=False, overwrite=True)
        results = convert_stream.run(source, out, options, lambda phase: None).graphs
        read = manifest.read(out)
        return {role: (read.path(role), _checked(result)) for role, result in results.items()}
    out = folder / f"{target}.onnx"
    result = converter.convert(
        source, out, target=target, precision=precision, validate=False, overwrite=True
    )
    return {"": (out, _checked(result))}


def _checked(result: converter.ConvertResult) -> Placement:
    assert result.conv3d_left == 0, str(result)
    assert result.placement is not None
    return result.placement


def _row(
    name: str, rocm: Machine, on_rocm: Converted, migraphx: Machine, on_migraphx: Converted
) -> str:
    path, static = on_rocm
    ops = {n.name: n.op_type for n in onnx.load(path, load_external_data=False).graph.node}
    constants = set(static.constants)
    nodes = len(ops) - len(constants)
    (answer,) = ask(rocm, [path])
    assert "error" not in answer, answer
    elsewhere = set(answer["elsewhere"]) - constants
    work = [n for n in ops if n not in constants and _is_work(ops[n])]
    expected = {*static.shape_work, *(f.node for f in static.fallbacks)}
    assert elsewhere == expected, (path, elsewhere ^ expected)
    cells = [
        name,
        str(nodes),
        str(nodes - len(elsewhere)),
        str(len(static.placed)),
        f"{sum(n not in elsewhere for n in work)} of {len(work)}",
        _why(static, ops),
        _whole(migraphx, on_migraphx[0]),
        f"{len(on_migraphx[1].placed)} of {on_migraphx[1].nodes - len(on_migraphx[1].constants)}",
    ]
    return f"| {' | '.join(cells)} |"


def _is_work(op: str) -> bool:
    return op in WORK or op.startswith(NORMS)


def _why(static: Placement, ops: dict[str, str]) -> str:
    parts = [f"{len(nodes)}: {reason}" for reason, nodes in static.reasons().items()]
    if static.shape_work:
        counts = Counter(ops[name] for name in static.shape_work)
        listed = ", ".join(sorted(counts))
        parts.append(f"{len(static.shape_work)} on shapes, on purpose: {listed}")
    return "; ".join(parts) or "none"


def _whole(migraphx: Machine, path: Path) -> str:
    """Whether a session holds in which no other provider is allowed."""
    (answer,) = ask(migraphx, [path], optimize=True, strict=True)
    if "error" in answer:
        return f"not whole: {answer['error'].splitlines()[0]}"
    assert answer["elsewhere"] == [], answer["elsewhere"]
    return "all"


if __name__ == "__main__":
    main()
