"""Results as binary glTF 2.0 (.glb): people, and the camera of the picture or video.

A picture gives one mesh per person, posed as seen. A clip of several frames gives one skinned mesh per person
with an animated skeleton, see `glb_animation`. glTF has y up and cameras that look along -z, so the camera
frame is turned by 180 degrees about x.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fasthmr.io.atomic import write_bytes
from fasthmr.io.clip_schema import UNITS, VIEWER_AXES, person_name, to_viewer_axes
from fasthmr.io.glb_animation import SkinnedScene
from fasthmr.io.glb_file import GlbFile
from fasthmr.io.glb_mesh import SurfaceWriter
from fasthmr.results import Clip


def write_glb(clip: Clip, path: Path) -> Path:
    """Writes the people of a picture as static meshes, those of several frames as animated ones.

    Raises:
        UsageError: The clip has several frames and no skinning weights.
    """
    file = GlbFile()
    roots = []
    if clip.num_frames:
        roots.append(file.add("nodes", name="camera", camera=file.add("cameras", **_camera(clip))))
    people = [(index, person) for index, person in enumerate(clip.persons) if len(person.frames)]
    surfaces = SurfaceWriter(file)
    if people and clip.num_frames > 1:
        scene = SkinnedScene(file, clip, surfaces, str(path))
        for index, person in people:
            roots += scene.add(person, index)
        scene.finish()
    else:
        for index, person in people:
            name = person_name(person)
            mesh = surfaces.add(name, index, to_viewer_axes(person.vertices[0]), clip.faces_of(person))
            roots.append(file.add("nodes", name=name, mesh=mesh))
    return write_bytes(path, file.to_bytes(roots, _extras(clip)))


def _extras(clip: Clip) -> dict[str, Any]:
    cameras = clip.intrinsics[:1] if (clip.intrinsics == clip.intrinsics[:1]).all() else clip.intrinsics
    return {
        "units": UNITS,
        "axes": VIEWER_AXES,
        "source": clip.source,
        "image_size": list(clip.image_size),
        "intrinsics": cameras.astype(float).tolist(),
    }


def _camera(clip: Clip) -> dict[str, Any]:
    """The camera, of a video with its median lens; glTF has no principal point, see `extras`."""
    width, height = clip.image_size
    fx, fy = (float(np.median(clip.intrinsics[:, axis, axis])) for axis in (0, 1))
    return {
        "name": "camera",
        "type": "perspective",
        "perspective": {
            "yfov": 2 * math.atan(height / (2 * fy)),
            "aspectRatio": width / height * fy / fx,
            "znear": 0.01,
        },
    }
