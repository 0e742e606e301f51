"""Fit the CPU constants of `converter.cost` to measured times of a graph's Conv3Ds.

python -m scripts.fit_costs GRAPH.onnx TUNING.json

Every candidate of every distinct Conv3D is timed, or its time taken from the cache, as
`convert-vae --tune` does. The constants are those of the least squares of relative errors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np

from converter import model_file
from converter.conv3d import Conv3D, find_conv3d
from converter.cost import CPU, Cost, estimate
from converter.rewrites import KEEP
from converter.surgeon import open_model
from converter.tune import signature_of, tuner

Sample = tuple[str, Cost, float]


def samples(graph: Path, cache: Path) -> list[Sample]:
    """(strategy, estimated cost, measured seconds) of every candidate but `keep`."""
    model = model_file.load(graph)
    surgery = open_model(model.proto)
    found = find_conv3d(list(surgery.graphs()), model.weights, surgery.opset)
    measure = tuner("cpu", cache_path=cache, notify=lambda *what: print(*what, file=sys.stderr))
    distinct = {signature_of(conv): conv for conv in found if isinstance(conv, Conv3D)}
    return [
        (strategy, estimate(conv, strategy), seconds)
        for signature, conv in distinct.items()
        if signature is not None
        for strategy, seconds in measure(conv).seconds.items()
        if strategy != KEEP
    ]


def fit(measured: list[Sample]) -> tuple[float, float, float]:
    """Seconds a product, a byte moved, and a launch, none negative."""
    rows = np.array([[c.products, c.bytes_moved, c.launches] for _, c, _ in measured])
    seconds = np.array([s for _, _, s in measured])
    weighted = rows / seconds[:, None]
    kept = list(range(3))
    while True:
        solution, *_ = np.linalg.lstsq(weighted[:, kept], np.ones(len(seconds)), rcond=None)
        if (solution > 0).all():
            found = np.zeros(3)
            found[kept] = solution
            return float(found[0]), float(found[1]), float(found[2])
        kept.pop(int(np.argmin(solution)))


@click.command()
@click.argument("graph", type=click.Path(path_type=Path, exists=True))
@click.argument("cache", type=click.Path(path_type=Path))
def main(graph: Path, cache: Path) -> None:
    """Print the constants, and how far the estimates with them and as they stand are off."""
    measured = samples(graph, cache)
    product, byte, launch = fit(measured)
    print(f"products a second {1 / product:.3g}" if product else "products cost nothing")
    print(f"bytes a second {1 / byte:.3g}" if byte else "bytes cost nothing")
    print(f"seconds a launch {launch:.3g}")
    ratios = np.array([c.seconds(CPU) / s for _, c, s in measured])
    fitted = np.array(
        [
            (c.products * product + c.bytes_moved * byte + c.launches * launch) / s
            for _, c, s in measured
        ]
    )
    for strategy in sorted({s for s, _, _ in measured}):
        own = [s == strategy for s, _, _ in measured]
        print(
            f"{strategy}: {sum(own)} times; estimate over measured, median: "
            f"{np.median(ratios[own]):.2f} as it stands, {np.median(fitted[own]):.2f} fitted"
        )


if __name__ == "__main__":
    main()
