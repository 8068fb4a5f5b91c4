"""Coverage-guided fuzzing of one reader, by Atheris (libFuzzer): `pip install atheris`, then

    python -m tests.fuzz.run TARGET [--seconds 600] [--corpus FOLDER]

TARGET is one of config, seeds, image, zip, archive, pickle, convert, safetensors. Inputs that reach
new code are kept in the corpus, and a later call starts from them. An input that breaks a rule of
`tests.fuzz.targets` is written to crash-* in the corpus's folder, and the exit code is 77; else 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

# The packages whose branches guide the search; what they read with in C is not seen.
GUIDED = [
    "stylenat",
    "zipfile",
    "PIL",
    "yaml",
    "json",
    "torch._weights_only_unpickler",
]
LONGEST = {"seeds": 64, "config": 4000, "convert": 2000, "image": 20_000}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="default: a new folder, which is named")
    chosen = parser.parse_args()
    try:
        import atheris
    except ModuleNotFoundError:
        parser.error("it needs Atheris: pip install atheris")
    with atheris.instrument_imports(include=GUIDED):
        from PIL import Image

        from tests.fuzz.targets import TARGETS, Runner, examples

        Image.init()  # its readers
    if chosen.target not in TARGETS:
        parser.error(f"TARGET must be one of {', '.join(TARGETS)}")

    corpus = chosen.corpus or Path(tempfile.mkdtemp(prefix=f"fuzz-{chosen.target}-"))
    corpus.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-scratch-"))
    for number, example in enumerate(examples(chosen.target, scratch)):
        (corpus / f"example-{number}").write_bytes(example)
    print(f"corpus: {corpus}", flush=True)
    options = {
        "max_total_time": chosen.seconds,
        "max_len": LONGEST.get(chosen.target, 60_000),
        "rss_limit_mb": 8192,
        "timeout": 30,
        "artifact_prefix": f"{corpus}/",
        "print_final_stats": 1,
    }
    run = Runner(chosen.target, scratch)
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
