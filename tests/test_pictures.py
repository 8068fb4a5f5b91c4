"""The quickstart on real pictures: what is sorted where, and what it says without npm."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from stylenat.config import load_config
from stylenat.training.transfer import plan_transfer

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = "lobehub-fluent-emoji-3d-1.1.0.tgz"


def script() -> ModuleType:
    path = ROOT / "scripts/sort_emoji.py"
    spec = importlib.util.spec_from_file_location("sort_emoji", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sort_emoji = script()

# Groups of Unicode's emoji-test.txt.
KINDS = {
    "activities": ["26bd", "1f381", "1f9f8", "1f93f"],
    "animals": ["1f43b-200d-2744-fe0f", "1f344", "1f426-200d-2b1b", "1fab7", "1f331"],
    "flags": ["1f1e9-1f1ea", "1f3f4-200d-2620-fe0f", "1f3f4-e0067_e0062_e0065_e006e_e0067"],
    "food": ["1f355", "1f344-200d-1f7eb", "1f34b-200d-1f7e9", "1fad0", "2615"],
    "objects": ["1f4a1", "2328-fe0f", "1fa79", "26d3-fe0f-200d-1f4a5"],
    "people": ["1f468", "1F469-1F3FD-200D-1F680", "1f441-fe0f", "1faf1-1f3fb-200d-1faf2-1f3fc"],
    "smileys": ["1f600", "2764-fe0f-200d-1f525", "1f441-fe0f-200d-1f5e8-fe0f", "1f5e8-fe0f"],
    "symbols": ["0023-fe0f-20e3", "23-fe0f-20e3", "a9-fe0f", "2b06-fe0f", "267e-fe0f"],
    "travel": ["1f680", "2b50", "1f550", "1f3d4-fe0f", "1f6fc"],
}
PORTRAITS = [
    "1f468", "1f9d1-1f3ff", "1f469-1f3fd-200d-1f680", "1f468-200d-2695-fe0f",
    "1f477-1f3fb-200d-2642-fe0f", "1f575-fe0f", "1f9d1-200d-1f9b0", "1fac5-1f3fe", "1f478",
    "1f9d4-200d-2640-fe0f",
]  # fmt: skip
NO_PORTRAITS = [
    "1f468-200d-2764-fe0f-200d-1f468", "1f469-200d-1f467", "1f9d1-200d-1f384", "1f600", "1f9d9",
    "1f468-1f3fb-200d-1f9bd-200d-27a1-fe0f", "1f469-200d-1f9af", "1f46b", "1f64b-200d-2642-fe0f",
    "1f9d1-200d-1f91d-200d-1f9d1", "1f46a", "1f3fb",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names]
)
def test_a_name_tells_the_kind(kind, name):
    assert sort_emoji.kind_of(sort_emoji.code_points(name)) == kind


@pytest.mark.parametrize("name", PORTRAITS + NO_PORTRAITS)
def test_portraits_show_the_head_and_shoulders_of_one_person(name):
    assert sort_emoji.is_portrait(sort_emoji.code_points(name)) == (name in PORTRAITS)


def test_no_code_point_is_of_two_kinds():
    ranges = {kind: sort_emoji.parsed(text) for kind, text in sort_emoji.KINDS.items()}
    assert len(ranges) == 9
    for one, other in combinations(ranges, 2):
        for a in ranges[one]:
            shared = [hex(point) for b in ranges[other] for point in a if point in b]
            assert not shared, (one, other)


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_sorting_copies_each_picture_to_its_kind_and_portraits_twice(tmp_path):
    source = pictures(tmp_path / "all", "1f600.webp", "1f468.webp", "1f46a.png", "README.md")
    counts = sort_emoji.sort(source, tmp_path / "kinds", tmp_path / "portraits")
    assert counts == {"smileys": 1, "people": 2, "portraits": 1}
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*") if p.parent != source}
    assert found == {
        "kinds/smileys/1f600.webp",
        "kinds/people/1f468.webp",
        "kinds/people/1f46a.png",
        "portraits/1f468.webp",
    }
    assert (tmp_path / "portraits/1f468.webp").read_bytes() == b"1f468.webp"


@pytest.mark.parametrize("name", ["smile.webp", "1f600-.webp", "0.webp"])
def test_a_name_that_is_no_emoji_is_refused_before_anything_is_copied(tmp_path, name):
    source = pictures(tmp_path / "all", "1f468.webp", name)
    with pytest.raises(ValueError, match="must be the code points of an emoji") as refused:
        sort_emoji.sort(source, tmp_path / "kinds", tmp_path / "portraits")
    assert str(refused.value).startswith(f"{source}/{name}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        sort_emoji.sort(pictures(tmp_path / "all", "README.md"), tmp_path / "k", tmp_path / "p")


# The configuration


@pytest.mark.parametrize("model", ["results/faces64", "results/faces64/model.safetensors"])
def test_the_generator_of_faces64_fits_it_to_the_last_tensor(model):
    config = load_config("portraits64", [f"train.init_from={ROOT}/{model}"])
    matches = plan_transfer(config).matches
    assert set(matches) == {"G", "G_ema"}
    for name, found in matches.items():
        assert len(found.copied) == found.count, name
        assert not found.left_over, name


# The shell script, up to what needs the network


NEEDED = ("bash", "dirname", "mkdir", "sha256sum", "shasum", "cut", "tar", "rm", "mv")


def fetching(project: Path, npm: str | None, archive: bytes | None = None) -> str:
    """What the script says when it cannot fetch; `npm` is the text of a program, or None."""
    programs = project / "programs"
    for folder in (project / "scripts", project / "results/runs/pictures", programs):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "scripts/quickstart_pictures.sh", project / "scripts")
    for name in NEEDED:
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    if npm is not None:
        (programs / "npm").write_text(npm)
        (programs / "npm").chmod(0o755)
    if archive is not None:
        (project / "results/runs/pictures" / ARCHIVE).write_bytes(archive)
    done = subprocess.run(
        [programs / "bash", project / "scripts/quickstart_pictures.sh"],
        env={**os.environ, "PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    assert "2/6" not in done.stdout
    return done.stderr


def test_without_npm_one_sentence_says_what_to_get_and_where_to_put_it(tmp_path):
    project = tmp_path / "project"
    said = fetching(project, npm=None)
    assert said.count("\n") == 1
    assert "npm is not installed" in said
    assert "@lobehub/fluent-emoji-3d@1.1.0" in said
    assert said.endswith(f"put it at {project}/results/runs/pictures/{ARCHIVE}\n")


def test_npms_own_message_is_shown_if_it_fails(tmp_path):
    said = fetching(tmp_path / "project", npm="#!/bin/sh\necho E-NETWORK >&2\nexit 1\n")
    assert said.startswith("E-NETWORK\nquickstart_pictures: npm could not fetch @lobehub/")


def test_another_archive_is_refused_by_its_checksum_whoever_put_it_there(tmp_path):
    npm = f'#!/bin/sh\necho other > "$4/{ARCHIVE}"\n'
    for project, settings in (("put", {"npm": None, "archive": b"other"}), ("got", {"npm": npm})):
        said = fetching(tmp_path / project, **settings)
        assert "because its SHA-256 is not c1bb7eee" in said
