"""A page without a server: a folder for any static host, with the models as ONNX files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from stylenat.config.privacy import last_part
from stylenat.explorer.gallery import Gallery
from stylenat.explorer.runtime import FILES, NOTICE, runtime_files
from stylenat.explorer.serving import PAGE, page_files
from stylenat.files import replacing, user_path
from stylenat.portable import save_onnx
from stylenat.text import shell_word

ENGINE = '<meta name="stylenat-engine" content="server">'
# ONNX Runtime compiles WebAssembly. A host adds no headers, so the page says what it may load.
STATIC_ENGINE = """<meta name="stylenat-engine" content="static">
<meta http-equiv="Content-Security-Policy" content="default-src 'self'; \
script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; img-src 'self' blob: data:; \
base-uri 'none'; form-action 'none'">"""


def write_static(
    gallery: Gallery, folder: str | Path, *, ort: Path | None = None, half: bool = False
) -> int:
    """Write the page, its models and ONNX Runtime Web; returns the number of bytes.

    `ort`: npm's tarball of onnxruntime-web or a folder with its files; None looks into the cache,
    and asks npm. With `half`, weights are float16. Raises ValueError and OSError as `runtime_files`
    and `save_onnx` do.
    """
    runtime = runtime_files(ort)
    folder = user_path(folder)
    written: dict[str, bytes] = {f"ort/{name}": runtime[name] for name in FILES}
    written["ort/NOTICE.txt"] = NOTICE.encode()
    for name, data in page_files().items():
        if name == PAGE:
            text = data.decode()
            assert ENGINE in text
            written[PAGE] = text.replace(ENGINE, STATIC_ENGINE).encode()
        else:
            written[f"page/{name}"] = data
    written["explorer.json"] = json.dumps(_without_folders(gallery.about())).encode()
    for number in range(len(gallery.files)):
        place = folder / "models" / str(number)
        save_onnx(gallery.model(number).generator, place, uint8=True, half=half)
        written[f"models/{number}/facts.json"] = json.dumps(gallery.facts(number)).encode()
    for name, data in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _without_folders(about: dict[str, Any]) -> dict[str, Any]:
    """What a page says of its files, by their names: a page that others see tells no path of this
    machine. Names on the Hub are nobody's folders."""
    models = [{**model, "word": _last_part(model["word"])} for model in about["models"]]
    directions = about["directions_word"]
    return {
        **about,
        "models": models,
        "directions_word": None if directions is None else _last_part(directions),
    }


def _last_part(word: str) -> str:
    """The name of a file, from its path as a shell takes it."""
    (path,) = shlex.split(word)
    return shell_word(last_part(path) or path)
