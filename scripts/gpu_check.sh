#!/usr/bin/env bash
# All that takes a GPU, in one command, on a bare machine too (PyTorch and Triton; what needs more is
# named and skipped): correctness, speed, profiles, five minutes of training. No part takes ten
# minutes. Results and summary.txt, which says what targets were met, go to one folder.
#
#   scripts/gpu_check.sh [--out DIR] [--cpu] [PART ...]
#
# PART of doctor, correct, bench (op, tune, generator, training), profile, train, natten; all by
# default. tune times other settings of the Triton kernels.
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
exec "$python" -m stylenat.benchmarks.gpu_check "$@"
