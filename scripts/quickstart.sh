#!/usr/bin/env bash
# From nothing to a converted decoder: an environment, the Wan 2.1 decoder in its published
# configuration with seeded weights, the conversion, and the validation. May be run again.
set -euo pipefail
. "$(dirname "$0")/environment.sh" cpu,export

folder=build/quickstart
mkdir -p "$folder"
original=$folder/wan2.1.onnx
converted=$folder/wan2.1-conv2d.onnx

"$bin/export-vae" wan2.1 "$original" --seed 0 --latent 1x16x3x16x16 --overwrite
"$bin/convert-vae" "$original" "$converted" --overwrite

echo
echo "original:  $PWD/$original"
echo "converted: $PWD/$converted"
echo "commands:  $bin/convert-vae --help, $bin/export-vae --help"
