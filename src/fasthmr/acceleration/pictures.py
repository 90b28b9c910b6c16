"""Pictures and frames of videos, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fasthmr.errors import InputError, UsageError
from fasthmr.io.images import read_image
from fasthmr.io.video import open_video
from fasthmr.runtime.intrinsics import Picture
from fasthmr.runtime.sources import as_live, find_sources, is_video

_log = logging.getLogger(__name__)


def pictures_of(
    paths: list[Path], order: list[int], of_video: int, unreadable: list[str]
) -> Iterator[tuple[int, Path, Picture]]:
    """Pictures and frames of videos, with the number of their file; of a lone video, of the frame.

    Args:
        order: In which files are read.
        of_video: Frames of each video, spread over its length.
        unreadable: What cannot be read is noted here.
    """
    lone = len(paths) == 1
    for index in order:
        path = paths[index]
        try:
            if not is_video(path):
                yield index, path, read_image(path)
                continue
            if lone:
                _log.warning("%s: one video alone; frames that judge are much like the others", path)
            for frame, rgb in _frames_of(path, of_video):
                yield frame if lone else index, path, rgb
        except InputError as error:
            _log.warning("%s; left out", error)
            unreadable.append(str(error))


def _frames_of(path: Path, count: int) -> Iterator[tuple[int, Picture]]:
    """Frames spread over a video, which is read from its start to its end."""
    with open_video(path) as video:
        every = max(1, (video.expected_frames or 0) // count)
        for number, frame in enumerate(islice(video, 0, count * every, every)):
            yield number, frame.rgb
        if video.damage:
            _log.warning("%s: %s", path, video.damage)


def files_of(source: str) -> list[Path]:
    """Pictures and videos that a folder, file, glob or list names.

    Raises:
        UsageError: A camera or a stream.
        InputError: There are none.
    """
    if as_live(source) is not None:
        raise UsageError(f"{source}: cameras and streams are not read; give pictures or recorded videos")
    folder = Path(source)
    try:
        if not folder.exists() and not folder.suffix and not set(source) & set("*?["):
            raise InputError(f"{source}: no such folder; give a folder with pictures or videos of people")
        items = find_sources([source]).items
    except PermissionError as error:
        raise InputError(f"{source}: cannot be read ({error}); check its permissions") from error
    return [item for item in items if isinstance(item, Path)]
