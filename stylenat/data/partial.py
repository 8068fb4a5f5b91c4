"""A data set's zip while it is made: it survives a kill, and can be continued.

Beside DEST.zip there is a folder `.DEST.zip.partial` with `images.zip`, whose members stand in the
order of the source; `journal.jsonl`, one line per image; and `settings.json`, from what the images
were made and how. The zip's own directory is written at the end. A member counts if its
journal line and its bytes are whole.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylenat.data.listing import INDEX
from stylenat.data.source import Label
from stylenat.files import naming, replacing, take_lock


@dataclass(frozen=True)
class Entry:
    """What became of one image of the source: a member of `size` bytes, or the reason why not."""

    name: str
    size: int = 0
    crc: int = 0
    label: Label | None = None
    enlarged: bool = False
    skipped: str | None = None


class PartialZip:
    """Begins, or continues, the zip of `dest`.

    `entries`: what is already there, in the source's order. `restarted`: whether unfinished work
    was given up, since it was made with other settings. Raises ValueError if another process is
    making the same zip.
    """

    def __init__(self, dest: Path, settings: dict[str, Any]) -> None:
        self.dest = dest
        self.folder = partial_folder(dest)
        self.folder.mkdir(exist_ok=True)
        self._journal_path = self.folder / "journal.jsonl"
        self._journal = self._journal_path.open("a+b")
        if not take_lock(self._journal, unlocked=f"no other process may make {dest}"):
            raise ValueError(f"{dest} is being made by another process")
        self._zip_path = self.folder / "images.zip"
        self._zip_path.touch()
        self._file = self._zip_path.open("r+b")
        self.entries: list[Entry] = []
        self._members: list[zipfile.ZipInfo] = []
        is_ours = self._has(settings)
        self.restarted = not is_ours and self._journal.tell() > 0
        with naming(self._zip_path):
            self._keep_whole_entries(self._journal if is_ours else ())
        noted = self.folder / "settings.json"
        with naming(noted):
            noted.write_text(json.dumps(settings), encoding="utf-8")

    def _has(self, settings: dict[str, Any]) -> bool:
        try:
            return bool(json.loads((self.folder / "settings.json").read_text()) == settings)
        except (OSError, ValueError):
            return False

    def _keep_whole_entries(self, journal: Iterable[bytes]) -> None:
        """Read the journal as far as it and the members are whole, and cut off the rest."""
        self._journal.seek(0)
        journal_end, end = 0, 0
        for line in journal:
            entry = _parsed(line)
            if entry is None:
                break
            if entry.skipped is None:
                member = _member(len(self._members), entry.size, entry.crc, offset=end)
                self._file.seek(end + len(member.FileHeader()))
                content = self._file.read(entry.size)
                if len(content) < entry.size or zlib.crc32(content) != entry.crc:
                    break
                self._members.append(member)
                end = self._file.tell()
            self.entries.append(entry)
            journal_end += len(line)
        self._journal.truncate(journal_end)
        self._file.truncate(end)
        self._file.seek(end)

    def add(self, name: str, content: bytes, *, label: Label | None, enlarged: bool) -> None:
        """The next image of the source becomes a member."""
        entry = Entry(name, len(content), zlib.crc32(content), label, enlarged)
        offset = self._file.tell()
        member = _member(len(self._members), entry.size, entry.crc, offset=offset)
        with naming(self._zip_path):
            self._file.write(member.FileHeader() + content)
        self._members.append(member)
        self._note(entry)

    def skip(self, name: str, reason: str) -> None:
        """The next image of the source is left out."""
        self._note(Entry(name, skipped=reason))

    def _note(self, entry: Entry) -> None:
        self.entries.append(entry)
        with naming(self._journal_path):
            self._journal.write(json.dumps(asdict(entry)).encode() + b"\n")

    def flush(self) -> None:
        """Hand over to the system what was added so far; then it survives this process."""
        with naming(self._zip_path):
            self._file.flush()
        with naming(self._journal_path):
            self._journal.flush()

    def finish(self, about: dict[str, Any]) -> None:
        """Add `dataset.json`, StyleGAN's labels and `about`; put the zip into its place."""
        kept = [entry for entry in self.entries if entry.skipped is None]
        labels = [
            [member.filename, entry.label]
            for member, entry in zip(self._members, kept, strict=True)
            if entry.label is not None
        ]
        content = {"labels": labels if len(labels) == len(kept) else None, "stylenat": about}
        with replacing(self.dest) as temporary:
            with zipfile.ZipFile(self._file, "w") as archive:  # from here on
                archive.filelist.extend(self._members)
                archive.writestr(_info(INDEX), json.dumps(content))
            self._file.close()
            self._zip_path.replace(temporary)
        self.close()
        self._remove()

    def close(self) -> None:
        """Close the files; unfinished work stays."""
        try:
            with naming(self._zip_path):
                self._file.close()
        finally:
            with naming(self._journal_path):
                self._journal.close()
        if not self.entries:
            self._remove()

    def _remove(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()


def partial_folder(dest: Path) -> Path:
    """Where the unfinished zip lies: beside its place, since only there a rename is one step."""
    place = Path(os.path.realpath(dest)) if dest.is_symlink() else dest
    return place.with_name(f".{place.name}.partial")


def _parsed(line: bytes) -> Entry | None:
    """None for a line that was cut short."""
    try:
        return Entry(**json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None


def _member(number: int, size: int, crc: int, *, offset: int) -> zipfile.ZipInfo:
    """StyleGAN's names: 00000/img00000000.png, a thousand images per folder."""
    digits = f"{number:08d}"
    member = _info(f"{digits[:5]}/img{digits}.png")
    member.header_offset, member.CRC = offset, crc
    member.file_size = member.compress_size = size
    return member


def _info(name: str) -> zipfile.ZipInfo:
    """Stored, not compressed; time, rights and system are always the same."""
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info
