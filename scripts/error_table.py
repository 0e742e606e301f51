"""The relative error of one layer by strategy and storage type, against float64, in Markdown.

python -m scripts.error_table
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from converter.rewrites.tiling import DIRECT, PRODUCTS, layer_error

TYPES = (("fp32", np.float32), ("fp16", np.float16), ("bf16", ml_dtypes.bfloat16))
SEEDS = range(3)


def main() -> None:
    """Print the median over the seeds of the relative L2 error of 96 channels, 3x3x3."""
    print("| strategy | products a frame | " + " | ".join(name for name, _ in TYPES) + " |")
    print("|---|---:|" + "---:|" * len(TYPES))
    for m, products in PRODUCTS.items():
        name = "direct (`unfold`, `taps`)" if m == DIRECT else f"`winograd` F({m},3)"
        errors = [
            np.median([layer_error(m, dtype, seed=seed).relative for seed in SEEDS])
            for _, dtype in TYPES
        ]
        shown = " | ".join(f"{error:.1e}" for error in errors)
        print(f"| {name} | {products / m:.2f} | {shown} |")


if __name__ == "__main__":
    main()
