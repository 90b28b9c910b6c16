"""What `SOURCE...` on the command line means: files, folders, globs, list files, cameras and streams."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fasthmr.errors import InputError, UsageError

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif"))
_OVERLAY_SUFFIXES = (".overlay.png", ".overlay.mp4")  # results of a former run are no sources
_LONGEST_STEM = 180  # bytes; file systems allow 255 for a name
_LONGEST_NUMBER = 18  # digits of a 64-bit integer
_MAX_LIST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Live:
    """A camera by its number, or a stream by its URL: pictures that come once.

    Attributes:
        name: Stem of the names of results.
    """

    address: int | str
    name: str

    def __str__(self) -> str:
        return f"camera {self.address}" if isinstance(self.address, int) else self.address


Source = Path | Live
"""What results are made of: a picture, a video, or something live."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Pictures, videos, cameras and streams to work on.

    Attributes:
        items: In the order given, folders and globs sorted, each once.
        single: One thing was asked for by name, so its failure is the failure of the run.
    """

    items: tuple[Source, ...]
    single: bool = False


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Pictures to work on.

    Attributes:
        pictures: In the order given, folders and globs sorted, each once.
        skipped_videos: Videos found in folders and globs.
        single: One file was asked for by name, so its failure is the failure of the run.
    """

    pictures: tuple[Path, ...]
    skipped_videos: tuple[Path, ...] = ()
    single: bool = False


def find_sources(sources: Sequence[str]) -> Found:
    """What is named by files, folders (not their subfolders), globs, .txt lists, camera numbers and URLs.

    Files named directly are taken whatever their suffix; a missing one is reported when its turn comes.
    Lines of a list are relative to the folder of the list; empty lines and those with # are left out.

    Raises:
        UsageError: There is no source.
        InputError: A list file cannot be read, or a folder or glob holds neither pictures nor videos.
    """
    if not sources:
        raise UsageError("no sources given; name files, folders or globs")
    found: dict[Source, None] = {}
    for source in sources:
        live = as_live(source)
        found.update(dict.fromkeys([live] if live is not None else _expand(source)))
    single = len(sources) == 1 and (list(found) == [Path(sources[0])] or isinstance(next(iter(found)), Live))
    return Found(items=tuple(found), single=single)


def find_pictures(sources: Sequence[str]) -> Sources:
    """As `find_sources`, where only pictures will do; videos in folders and globs are left out.

    Raises:
        UsageError: A source is a video, a camera or a stream, or there is none.
        InputError: As `find_sources`.
    """
    found = find_sources(sources)
    live = [item for item in found.items if isinstance(item, Live)]
    videos = [item for item in found.items if is_video(item) and not isinstance(item, Live)]
    for item in (*live, *(video for video in videos if str(video) in sources)):
        raise UsageError(f"{item}: is no picture; give pictures, or extract some from it first")
    pictures = tuple(item for item in found.items if isinstance(item, Path) and not is_video(item))
    if not pictures:
        raise InputError(f"{', '.join(sources)}: holds no pictures; looked for {_listed(PICTURE_SUFFIXES)}")
    return Sources(pictures=pictures, skipped_videos=tuple(videos), single=found.single)


def as_live(source: str) -> Live | None:
    """A camera or stream, if the source is one and not the name of a file."""
    if "://" in source:
        host, _, path = source.split("://", 1)[1].split("?")[0].rstrip("/").partition("/")
        last = path.rsplit("/", 1)[-1] or host.replace(".", "_")  # what follows the last dot is no suffix
        return Live(
            address=source, name=re.sub(r"[^\w.-]+", "_", last)[:_LONGEST_STEM].strip(".") or "stream"
        )
    if source.isascii() and source.isdigit() and not _exists(Path(source)):
        return Live(address=int(source), name=f"camera{int(source)}")
    return None


def is_video(source: Source) -> bool:
    """Whether there are frames to expect rather than one picture."""
    return isinstance(source, Live) or source.suffix.lower() in VIDEO_SUFFIXES


def output_stems(pictures: Sequence[Path]) -> dict[Path, str]:
    """A name for the results of each picture.

    Its stem; where several share one, its full name; else, or when too long, with a hash of the path.
    """
    stems: dict[Path, str] = {}
    for named in (lambda picture: picture.stem, lambda picture: picture.name):
        # Names are compared without case, as some file systems do.
        counts = Counter(name.casefold() for name in (*map(named, pictures), *stems.values()))
        for picture in pictures:
            name = named(picture)
            fits = len(os.fsencode(name)) <= _LONGEST_STEM
            if picture not in stems and fits and counts[name.casefold()] == 1:
                stems[picture] = name
    return {picture: stems.get(picture, f"{picture.name[:40]}.{_path_hash(picture)}") for picture in pictures}


def picture_number(picture: Path) -> int | None:
    """The number that a file name is, as in COCO: digits alone, or twelve of them after the last `_`."""
    name = picture.stem
    if name.isascii() and name.isdigit():
        return int(name[-_LONGEST_NUMBER:])
    before, _, digits = name.rpartition("_")
    return int(digits) if before and len(digits) == 12 and digits.isascii() and digits.isdigit() else None


def image_ids(pictures: Sequence[Path]) -> dict[Path, int]:
    """A number for each picture: that in its name where no other has the same, else its place in the list.

    A place that is taken gives way to the next free number.
    """
    numbers = {picture: picture_number(picture) for picture in pictures}
    counts = Counter(numbers.values())
    ids = {picture: n for picture, n in numbers.items() if n is not None and counts[n] == 1}
    taken = set(ids.values())
    for place, picture in enumerate(pictures):
        if picture not in ids:
            number = place
            while number in taken:
                number += 1
            ids[picture] = number
            taken.add(number)
    return ids


def _expand(source: str) -> list[Path]:
    if "\0" in source or not source.strip():
        raise UsageError("a source is empty or holds a zero byte; name a file, folder or glob")
    path = Path(source)
    if _exists(path):
        if path.is_dir():
            return _pick(source, list(path.iterdir()), "folder")
        if path.suffix.lower() == ".txt":
            return _read_list(path)
    elif glob.has_magic(source):
        return _pick(source, [Path(match) for match in glob.glob(source, recursive=True)], "glob")
    return [path]


def _pick(source: str, paths: list[Path], kind: str) -> list[Path]:
    known = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(path for path in paths if path.suffix.lower() in known and _is_candidate(path))
    if not files:
        raise InputError(
            f"{source}: this {kind} holds no pictures and no videos; looked for {_listed(known)}"
        )
    return files


def _read_list(path: Path) -> list[Path]:
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise InputError(f"{path}: more than {_MAX_LIST_BYTES >> 20} MB; split the list")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text list of pictures and videos ({error})") from error
    files: list[Path] = []
    for line in lines:
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if "://" in entry:
            raise InputError(f"{path}: names a stream, {entry}; give it as a source of its own")
        target = path.parent / entry
        if target.suffix.lower() == ".txt":
            raise InputError(f"{path}: names another list, {entry}; give that list as a source of its own")
        files += _expand(str(target))
    if not files:
        raise InputError(f"{path}: the list is empty; write one file in a line")
    return files


def _listed(suffixes: Iterable[str]) -> str:
    return " ".join(sorted(suffixes))


def _is_candidate(path: Path) -> bool:
    return not path.name.startswith(".") and not path.name.endswith(_OVERLAY_SUFFIXES) and path.is_file()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system
        return False


def _path_hash(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:8]
