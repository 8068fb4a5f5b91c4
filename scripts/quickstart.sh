#!/usr/bin/env bash
# From nothing to a trained model, on any machine: sets up, draws a data set of faces, trains a small
# StyleNAT on it from scratch, samples, measures. At most ten minutes on two cores after the
# installation. Interrupted, or run again, it continues where it stopped:
#
#   scripts/quickstart.sh [KEY=VALUE ...]      train.total_kimg=200 goes on to 200,000 images
set -euo pipefail
cd "$(dirname "$0")/.."

out=results/runs/quickstart
stylenat=${STYLENAT_ENV:-.venv}/bin/stylenat
step() { printf '\n== %s\n' "$*"; }

step "1/5 Setting up"
scripts/setup.sh
mkdir -p "$out"

step "2/5 Drawing 8,000 faces"
[ -f "$out/faces32.zip" ] || "$stylenat" prepare faces:8000 "$out/faces32.zip" --resolution 32

step "3/5 Training (minutes; Ctrl-C is safe, the same command continues)"
"$stylenat" train configs/faces32.yaml data.path="$out/faces32.zip" --run-dir "$out/run" "$@"

step "4/5 Sampling"
"$stylenat" sample "$out/run" --seeds 0-63 --grid 8x8 --outdir "$out/samples"

step "5/5 Measuring"
"$stylenat" fid "$out/run" --data "$out/faces32.zip" --metrics swd --num 2000 \
    --out "$out/scores.json"

step "Done"
cat <<EOF
faces it made    $out/samples/grid.png     (what it learned from: $out/run/samples/reals.png)
curves           $out/run/progress.png
model            $out/run/snapshots/best.safetensors
scores           $out/scores.json

More faces:      $stylenat sample $out/run --seeds 100-163 --trunc 0.8 --outdir more
EOF
