"""Result files from one format to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fasthmr.errors import UsageError, did_you_mean
from fasthmr.io.export import load_result

FORMATS = ("glb", "bvh", "obj", "json", "npz")
"""Of meshes; keypoints have the last two."""


def convert_result(result: Path, to: Sequence[str], out: Path | None = None) -> tuple[Path, ...]:
    """Writes a result (.npz) in other formats.

    Args:
        to: Some of `FORMATS`.
        out: Folder for the files; that of the result if None.

    Raises:
        UsageError: A format is unknown.
        InputError: The result cannot be read.
        ResourceError: The place cannot be written.
    """
    formats = [name.strip().lower() for name in to if name.strip()]
    for name in formats:
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS)
            raise UsageError(f"cannot convert to '{name}'{hint}; known: {', '.join(FORMATS)}")
    if not formats:
        raise UsageError(f"nothing to convert to; name some of {', '.join(FORMATS)}")
    clip = load_result(result)
    folder = result.parent if out is None else out
    return tuple(clip.save(folder / f"{result.stem}.{name}") for name in formats)
