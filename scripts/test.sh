#!/usr/bin/env bash
# Runs the tests, on a bare machine too: scripts/test.sh [arguments for pytest]
# Up to four at a time, a processor each; with -n 0 in this process, as --pdb wants it.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "${STYLENAT_ENV:-.venv}/bin/python" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
