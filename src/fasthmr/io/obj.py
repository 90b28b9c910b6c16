"""Results as Wavefront .obj: one group per person, y up.

A picture gives one file. A clip of several frames gives one file per frame beside it, numbered
`name_000000.obj` as programs that load sequences expect.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from fasthmr.errors import ResourceError
from fasthmr.geometry.meshes import vertex_normals
from fasthmr.io.atomic import write_bytes
from fasthmr.io.clip_schema import VIEWER_AXES, person_name, to_viewer_axes
from fasthmr.results import Clip


def write_obj(clip: Clip, path: Path) -> Path:
    """Writes the surface of every person; returns the path of the (first) file.

    Raises:
        ResourceError: The files of all frames do not fit on the disk.
    """
    if clip.num_frames <= 1:
        return write_bytes(path, _frame(clip, 0).encode())
    files = [path.with_name(f"{path.stem}_{frame:06d}{path.suffix}") for frame in range(clip.num_frames)]
    for frame, file in enumerate(files):
        write_bytes(file, _frame(clip, frame).encode())
        if frame == 0:
            _check_space(clip, file)
    return files[0]


def _check_space(clip: Clip, first: Path) -> None:
    """A minute of video is about 3 GB: better said at once than when the disk is full."""
    here = sum(int((person.frames == 0).any()) for person in clip.persons)
    appearances = sum(len(person.frames) for person in clip.persons)
    needed = first.stat().st_size * max(appearances - here, 0) // max(here, 1)
    if here and needed > shutil.disk_usage(first.parent).free:
        raise ResourceError(
            f"{first.parent}: the frames as .obj take another {needed / 1e9:.1f} GB and the disk has less; "
            "an animated .glb is a thousandth of that"
        )


def _frame(clip: Clip, frame: int) -> str:
    lines = [f"# metres, {VIEWER_AXES}\n"]
    start = 1
    for person in clip.persons:
        for index in np.flatnonzero(person.frames == frame):
            points, faces = to_viewer_axes(person.vertices[index]), clip.faces_of(person).astype(np.int64)
            normals = vertex_normals(torch.from_numpy(points), torch.from_numpy(faces)).numpy()
            corners = np.repeat(faces + start, 2, axis=1)
            lines.append(f"g {person_name(person)}\n")
            lines.append(_rows("v %.6f %.6f %.6f\n", points))
            lines.append(_rows("vn %.4f %.4f %.4f\n", normals))
            lines.append(_rows("f %d//%d %d//%d %d//%d\n", corners))
            start += len(points)
    return "".join(lines)


def _rows(template: str, values: np.ndarray) -> str:
    return template * len(values) % tuple(values.ravel().tolist())
