"""Chooses the writer of a result by the suffix of its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fasthmr.errors import UsageError
from fasthmr.io.glb import write_glb
from fasthmr.io.json_out import write_json
from fasthmr.io.npz import write_npz
from fasthmr.io.obj import write_obj
from fasthmr.results import Clip

_WRITERS: dict[str, Callable[[Clip, Path], Path]] = {
    ".glb": write_glb,
    ".npz": write_npz,
    ".obj": write_obj,
    ".json": write_json,
}


def save_clip(clip: Clip, path: Path) -> Path:
    """Writes a clip in the format of the suffix.

    Raises:
        UsageError: the suffix is not supported, or the format cannot hold this clip.
        ResourceError: the disk is full or the place cannot be written.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        known = ", ".join(_WRITERS)
        raise UsageError(f"{path}: results are saved as {known}, not as '{path.suffix}'")
    return writer(clip, path)
