"""`stylenat push`."""

from __future__ import annotations

from pathlib import Path

import click

from stylenat.cli.options import BATCH, DEVICE, SNAPSHOT, TRUNC, ModelPath, UserPath


@click.command()
@click.argument("model", type=ModelPath())
@click.argument("repository", metavar="USER/NAME")
@click.option(
    "--license",
    "license_id",
    required=True,
    metavar="ID",
    help="The licence that you give the model, as the Hub names it: mit, cc-by-nc-4.0, other, ...",
)
@click.option("--private", is_flag=True, help="Let only you see the repository, if it is new.")
@click.option("--revision", metavar="BRANCH", help="The branch to write to.  [default: main]")
@click.option(
    "--data-note",
    metavar="TEXT",
    help="Where the training images come from, and what their licence is, in your words.",
)
@click.option(
    "--scores",
    type=UserPath(),
    multiple=True,
    metavar="FILE",
    help="A file that `stylenat fid --out` wrote for this model. May be given several times; the "
    "scores of a run are taken by themselves.",
)
@click.option(
    "--directions",
    type=UserPath(),
    metavar="FILE",
    help="A file that `stylenat directions` wrote for this model; its pictures come along.",
)
@click.option(
    "--static/--no-static",
    default=False,
    show_default=True,
    help="Add a page that runs the model in a browser, as `stylenat explore --static` writes it.",
)
@click.option(
    "--ort", type=UserPath(), metavar="PATH", help="For --static: as in `stylenat explore`."
)
@click.option(
    "--dry-run",
    "dry_run",
    type=UserPath(),
    metavar="DIR",
    help="Write what would be uploaded into this folder, and upload nothing.",
)
@TRUNC
@BATCH
@DEVICE
@SNAPSHOT
def push(
    model: Path,
    repository: str,
    license_id: str,
    private: bool,
    revision: str | None,
    data_note: str | None,
    scores: tuple[Path, ...],
    directions: Path | None,
    static: bool,
    ort: Path | None,
    dry_run: Path | None,
    trunc: float,
    batch: int,
    device: str,
    snapshot: str,
) -> None:
    """Upload MODEL to the Hugging Face Hub as USER/NAME, with a card that says what is known of it.

    MODEL is an exported file, a run folder or one of its snapshots. The card has a grid of the
    first seeds at psi --trunc. You must be logged in: `hf auth login`.
    """
    import tempfile

    from stylenat.hub import repository_name
    from stylenat.latents import Settings
    from stylenat.memory import keep_freed_memory
    from stylenat.publishing import Publication, check_login, upload_folder, write_folder

    if dry_run is not None and private:
        raise click.UsageError("--private is for an upload, and --dry-run uploads nothing")
    place = repository_name(repository, revision)
    publication = Publication(
        model, place, license_id, data_note, scores, directions, static, ort,
        Settings(trunc=trunc, batch=batch, device=device, snapshot=snapshot),
    )  # fmt: skip
    keep_freed_memory()
    if dry_run is not None:
        click.echo(_listed(write_folder(publication, dry_run), dry_run))
        click.echo(f"Nothing was uploaded. Look at {dry_run / 'README.md'}")
        return
    check_login(place)
    with tempfile.TemporaryDirectory(prefix="stylenat-push-") as folder:
        said = _listed(write_folder(publication, Path(folder)), Path(folder))
        address = upload_folder(Path(folder), place, private=private)
    click.echo(said)
    click.echo(f"{address}\nNext: stylenat sample {place} --seeds 0-15 --outdir DIR")


def _listed(files: list[Path], folder: Path) -> str:
    """The names of the files, those of subfolders as one, and the size of all."""
    places = {path.relative_to(folder).parts for path in files}
    names = sorted({parts[0] + ("/" if len(parts) > 1 else "") for parts in places})
    size = sum(path.stat().st_size for path in files) / 1e3
    return f"{len(files)} files, {size:,.0f} kB: {', '.join(names)}"
