"""What `SOURCE...` on the command line means: files, folders, globs and list files."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fasthmr.errors import InputError, UsageError

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif"))
_OVERLAY_SUFFIX = ".overlay.png"  # results of a former run in the same folder are no sources
_LONGEST_STEM = 180  # bytes; file systems allow 255 for a name
_LONGEST_NUMBER = 18  # digits of a 64-bit integer
_MAX_LIST_BYTES = 64 << 20


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


def find_pictures(sources: Sequence[str]) -> Sources:
    """Pictures named by files, folders (not their subfolders), globs and .txt lists of these, one in a line.

    Files named directly are taken whatever their suffix; a missing one is reported when its turn comes.
    Lines of a list are relative to the folder of the list; empty lines and those with # are left out.

    Raises:
        UsageError: A source is a video, a camera or a stream, or there is none.
        InputError: A list file cannot be read, or a folder or glob holds no picture.
    """
    if not sources:
        raise UsageError("no pictures given; name files, folders or globs")
    found: dict[Path, None] = {}
    videos: list[Path] = []
    for source in sources:
        pictures, skipped = _expand(source)
        found.update(dict.fromkeys(pictures))
        videos += skipped
    single = len(sources) == 1 and tuple(found) == (Path(sources[0]),)
    return Sources(pictures=tuple(found), skipped_videos=tuple(videos), single=single)


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


def _expand(source: str) -> tuple[list[Path], list[Path]]:
    if "\0" in source or not source.strip():
        raise UsageError("a source is empty or holds a zero byte; name a file, folder or glob")
    if "://" in source:
        raise UsageError(f"{source}: streams are not supported yet; give pictures")
    path = Path(source)
    if _exists(path):
        if path.is_dir():
            return _pick(source, list(path.iterdir()), "folder")
        if path.suffix.lower() == ".txt":
            return _read_list(path)
    elif glob.has_magic(source):
        return _pick(source, [Path(match) for match in glob.glob(source, recursive=True)], "glob")
    elif source.isdigit():
        raise UsageError(f"{source}: cameras are not supported yet; give pictures")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"{path}: videos are not supported yet; extract pictures from it first")
    return [path], []


def _pick(source: str, paths: list[Path], kind: str) -> tuple[list[Path], list[Path]]:
    files = sorted(path for path in paths if _is_candidate(path))
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not pictures:
        suffixes = " ".join(sorted(PICTURE_SUFFIXES))
        raise InputError(f"{source}: this {kind} holds no pictures; looked for {suffixes}")
    return pictures, videos


def _read_list(path: Path) -> tuple[list[Path], list[Path]]:
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise InputError(f"{path}: more than {_MAX_LIST_BYTES >> 20} MB; split the list")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text list of pictures ({error})") from error
    pictures: list[Path] = []
    videos: list[Path] = []
    for line in lines:
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        target = path.parent / entry
        if target.suffix.lower() == ".txt":
            raise InputError(f"{path}: names another list, {entry}; give that list as a source of its own")
        more, skipped = _expand(str(target))
        pictures += more
        videos += skipped
    if not pictures:
        raise InputError(f"{path}: the list is empty; write one picture in a line")
    return pictures, videos


def _is_candidate(path: Path) -> bool:
    return not path.name.startswith(".") and not path.name.endswith(_OVERLAY_SUFFIX) and path.is_file()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system
        return False


def _path_hash(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:8]
