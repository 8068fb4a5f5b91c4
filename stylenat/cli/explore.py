"""`stylenat explore`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import (
    ANY_MODEL,
    DEVICE,
    DTYPE,
    SEED_SCHEME,
    SNAPSHOT,
    ModelPath,
    UserPath,
)


@click.command()
@click.argument("models", type=ModelPath(), nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--directions",
    type=UserPath(),
    metavar="FILE",
    help="The file that `stylenat directions` wrote: each direction becomes a slider.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="The port of this machine to listen on.  [default: a free one]",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--static",
    "static_folder",
    type=UserPath(),
    metavar="DIR",
    help="Write the page into a folder instead, with the models in it: any host of static files "
    "can serve it, and it computes in the visitor's browser.",
)
@click.option(
    "--ort",
    type=UserPath(),
    metavar="PATH",
    help="For --static: the tarball of `npm pack onnxruntime-web@1.30.0`, or a folder with its "
    "files. Otherwise npm fetches it, once.",
)
@click.option(
    "--fp16", is_flag=True, help="For --static: store weights in float16, for half the download."
)
@DEVICE
@DTYPE
@SEED_SCHEME
@ANY_MODEL
@SNAPSHOT
def explore(
    models: tuple[Path, ...],
    directions: Path | None,
    port: int,
    opens: bool,
    static_folder: Path | None,
    ort: Path | None,
    fp16: bool,
    device: str,
    dtype_name: str,
    seed_scheme: str,
    any_model: bool,
    snapshot: str,
) -> None:
    """Walk through MODEL on a page in the browser: seeds, truncation, mixing, directions, films.

    MODEL is what `stylenat sample` takes. Several models are compared on the same seeds; of a run
    folder, the page has all snapshots. The page is served to this machine alone.
    """
    if static_folder is None and (ort is not None or fp16):
        raise click.UsageError("--ort and --fp16 are for --static DIR")
    if static_folder is not None and (port or opens):
        raise click.UsageError("--port and --open are for the server, and --static has none")

    from stylenat.explorer import Gallery, serve, write_static
    from stylenat.explorer.serving import require_server
    from stylenat.files import check_can_fill
    from stylenat.latents import Settings
    from stylenat.memory import keep_freed_memory

    if static_folder is None:
        require_server()
    else:
        check_can_fill(static_folder)
    keep_freed_memory()
    settings = Settings(
        seed_scheme=seed_scheme,
        any_model=any_model,
        device=device,
        dtype_name=dtype_name,
        snapshot=snapshot,
    )
    gallery = Gallery(models, settings, directions=directions, snapshots=static_folder is None)
    if static_folder is not None:
        size = write_static(gallery, static_folder, ort=ort, half=fp16)
        click.echo(f"{static_folder}: a page for any host of static files, {size / 1e6:.1f} MB")
        click.echo(f"To see it here: python -m http.server --directory {static_folder} 8000")
        return

    def ready(address: str) -> None:
        click.echo(f"{address}\nOpen this address in a browser on this machine. Ctrl-C ends it.")
        if opens:
            import webbrowser

            webbrowser.open(address)

    serve(gallery, port, ready=ready)
