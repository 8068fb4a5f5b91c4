#!/usr/bin/env bash
# Makes .venv and installs StyleNAT into it, with all that running and testing need.
# Run it as often as you like: with nothing to do it takes a fraction of a second.
#
# STYLENAT_ENV=PREFIX   install into this environment instead (an absolute path, such as
#                       $VIRTUAL_ENV or $CONDA_PREFIX); the other scripts follow it too.
# STYLENAT_CONSTRAINTS=...   which versions to install; remembered in the environment.
#     tested    those of constraints.txt, which the tests passed with (the default). An
#               environment that STYLENAT_ENV names is yours: a package that it has already (your
#               torch, say) stays as it is if requirements.txt allows that, and constraints.txt
#               decides about the others alone
#     FILE      those of another file of constraints, as pip has them; in STYLENAT_ENV too
#     none      no constraints: a fresh environment gets the newest of everything
# STYLENAT_NATTEN=...   what to do about NATTEN; remembered in the environment.
#     python    pure Python, in seconds, whatever GPU is visible (the default)
#     build     compile libnatten, its CUDA kernels: about 130 core-minutes for one GPU
#               architecture. Needs nvcc; NATTEN_CUDA_ARCH and NATTEN_N_WORKERS apply
#     *.whl     install this prebuilt wheel: a path, or a URL out of https://natten.org/install
#     skip      leave NATTEN alone
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

env=${STYLENAT_ENV:-$PWD/.venv}
python=$env/bin/python
stamp=$env/.stylenat-setup

say() { printf 'setup: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }
constrained=() # -c FILE, once it is known
pip() {
    "$python" -m pip install --quiet --no-input --disable-pip-version-check \
        ${constrained[@]+"${constrained[@]}"} "$@"
}

# The newest Python on the path that is new enough and can make environments.
find_python() {
    local candidate unfit=""
    for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        unfit=${unfit:-$("$candidate" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')}
    done
    [ -z "$unfit" ] || die "$unfit cannot make environments; on Debian: apt-get install $unfit-venv"
    die "StyleNAT needs Python 3.11 or newer and found none on the path"
}

# All that the installation depends on.
fingerprint() {
    { cat requirements.txt requirements-dev.txt pyproject.toml setup.py scripts/setup.sh "$constraints"
      echo "$PWD" */__init__.py; "$python" -V; } | cksum
}

# The constraints that this installation follows, into a file of the environment.
write_constraints() {
    if [ "$chosen" = tested ] && [ -n "${STYLENAT_ENV:-}" ]; then
        "$python" - "$constraints" <<'PYTHON'
import re
import sys
from importlib.metadata import distributions


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


present = {plain(found.metadata["Name"]) for found in distributions() if found.metadata["Name"]}
for line in open(sys.argv[1], encoding="utf-8"):
    if plain(line.partition("==")[0].strip()) not in present:
        print(line, end="")
PYTHON
    else
        cat "$constraints"
    fi >"$env/.stylenat-constraints"
}

# Exits 0 if NATTEN has its CUDA kernels; prints what it has.
describe_natten() {
    "$python" - <<'PYTHON'
import natten
import torch

if natten.HAS_LIBNATTEN:
    print(f"NATTEN {natten.__version__} with libnatten")
    raise SystemExit(0)
cuda = (torch.version.cuda or "cpu").replace(".", "")
major, minor = torch.__version__.split(".")[:2]
print(
    f"NATTEN {natten.__version__} as pure Python: the `natten` backend needs libnatten (NVIDIA "
    "GPUs only). STYLENAT_NATTEN=build compiles it, for hours; STYLENAT_NATTEN=WHEEL takes a "
    f"prebuilt one, tagged torch{major}{minor}0cu{cuda} on https://natten.org/install"
)
raise SystemExit(1)
PYTHON
}

install_natten() {
    local requirement state libnatten=yes
    requirement=$(sed -n 's/^\(natten[^ #]*\).*/\1/p' requirements.txt)
    # NATTEN's setup.py imports torch, hence no build isolation, and compiles libnatten when it sees
    # a GPU or NATTEN_CUDA_ARCH. No cache: pip would take a wheel that an earlier call had built,
    # with or without libnatten, for whichever torch.
    local from_source=(--no-deps --no-build-isolation --no-cache-dir "$requirement")
    case $1 in
        skip) say "NATTEN: left alone"; return ;;
        python) NATTEN_CUDA_ARCH="" CUDA_VISIBLE_DEVICES="" pip "${from_source[@]}" ;;
        build)
            pip cmake
            PATH="$env/bin:$PATH" pip --force-reinstall --no-binary natten "${from_source[@]}" ;;
        *) constrained=() # a wheel has a version of its own
            pip --no-deps --force-reinstall "$1" ;;
    esac
    state=$(describe_natten) || libnatten=no
    say "$state"
    [ "$libnatten" = yes ] || [ "$1" = python ] || die "STYLENAT_NATTEN=$1 gave no libnatten: a" \
        "build needs a visible GPU or NATTEN_CUDA_ARCH (9.0, say); a wheel has to fit this PyTorch"
}

check_compiler() {
    local name header
    for name in "${CXX:-c++}" g++ clang++ ""; do
        ! command -v "$name" >/dev/null || break
    done
    [ -n "$name" ] || say "no C++ compiler: the \`cpu\` attention backend needs g++ or clang++;" \
        "everything else works"
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -f "$header" ] || say "no Python.h: the \`triton\` attention backend and torch.compile need" \
        "it (Debian: apt-get install python3-dev); everything else works"
}

chosen=${STYLENAT_CONSTRAINTS:-$(sed -n 3p "$stamp" 2>/dev/null || true)}
chosen=${chosen:-tested}
case $chosen in
    none) constraints=/dev/null ;;
    tested) constraints=constraints.txt ;;
    /*) constraints=$chosen ;;
    *) constraints=$called_from/$chosen chosen=$called_from/$chosen ;;
esac
[ -r "$constraints" ] && [ ! -d "$constraints" ] || die "STYLENAT_CONSTRAINTS=$chosen: there is no" \
    "such file; give a file of constraints, tested or none"

natten=${STYLENAT_NATTEN:-$(sed -n 2p "$stamp" 2>/dev/null || true)}
natten=${natten:-python}
case $natten in
    python | build | skip | *.whl) ;;
    *) die "STYLENAT_NATTEN=$natten: give python, build, skip, or the path or URL of a wheel" \
        "(.whl) listed on https://natten.org/install" ;;
esac

if [ -x "$python" ]; then
    wanted=$(fingerprint)$'\n'$natten$'\n'$chosen
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "StyleNAT needs Python 3.11 or newer; $env has $("$python" -V)"
elif [ -n "${STYLENAT_ENV:-}" ]; then
    die "STYLENAT_ENV=$STYLENAT_ENV is no environment: it has no bin/python"
else
    base=$(find_python)
    say "making .venv with $("$base" -V)"
    "$base" -m venv .venv
fi

write_constraints
[ "$chosen" = none ] || constrained=(-c "$env/.stylenat-constraints")

say "installing into $env (on a fresh one: several GB, most of it torch)"
pip -r <(grep -v '^natten' requirements.txt) -r requirements-dev.txt
# What was compiled or fetched once on request stays; only a new request does it again.
if [ -n "${STYLENAT_NATTEN:-}" ] || [ "$natten" = skip ]; then
    install_natten "$natten"
else
    install_natten python
fi
pip --no-deps --no-build-isolation --editable .
check_compiler
printf '%s\n%s\n%s\n' "$(fingerprint)" "$natten" "$chosen" >"$stamp"
say "done"
