#!/usr/bin/env bash
# Runs the tests, on a bare machine too: scripts/test.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
exec "${STYLENAT_ENV:-.venv}/bin/python" -m pytest "$@"
