#!/usr/bin/env bash
# Runs all that takes a GPU, in one command: correctness, speed, profiles, five minutes of training.
# A bare machine with PyTorch and Triton will do: what needs more is named and skipped. Results and
# summary.txt, which says what targets were met, go to one folder.
#
#   scripts/gpu_check.sh [--out DIR] [--seconds N] [--cpu] [PART ...]
#
# PART is one of doctor, correct, bench (op, tune, generator, training, backbones), profile, train and
# natten. All run by default. --seconds stops each part after N seconds. tune times other settings of the Triton
# kernels.
# NATTEN_SDIST=FILE builds NATTEN's kernels from its source package, in the background. STYLENAT_COMMIT
# names the commit where a copy of the files is without git's. --cpu rehearses at tiny sizes.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${STYLENAT_ENV:-.venv}/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c "import torch" 2>/dev/null; then
    echo "gpu_check needs PyTorch, and $python has none." >&2
    exit 2
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" -m tools.gpu_check "$@"
