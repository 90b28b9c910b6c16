"""What the result files have in common: schema version, units, axes, and the frame viewers expect."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fasthmr.results import Person

SCHEMA = "fasthmr.clip"
SCHEMA_VERSION = 1
UNITS = "metres, radians, pixels"
CAMERA_AXES = "camera frame of each picture, OpenCV: x right, y down, z forward"
VIEWER_AXES = "camera frame turned half round x: x right, y up, z backward (towards the viewer)"


def person_name(person: Person) -> str:
    """What a person is called in files."""
    return f"person_{person.track_id:03d}"


def to_viewer_axes(points: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Turns points or directions by 180 degrees about x, from OpenCV axes to y up, z backward."""
    return points * np.array([1, -1, -1], dtype=points.dtype)
