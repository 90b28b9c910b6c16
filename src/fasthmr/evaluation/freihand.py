"""Predictions in the form that FreiHAND's official evaluation reads."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fasthmr.io.atomic import atomic_path

FREIHAND_SAMPLES = 3960
"""Pictures of the evaluation set."""

_LOG = logging.getLogger(__name__)
_DECIMALS = 6


def write_freihand(
    path: Path, joints: Float[Tensor, "samples 21 3"], vertices: Float[Tensor, "samples vertices 3"]
) -> Path:
    """A .zip with `pred.json`: the list of joints and the list of vertices, metres about the wrist.

    The official script wants one entry for each of 3960 pictures, in the order of their numbers, and MANO's
    778 vertices.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    if len(joints) != FREIHAND_SAMPLES:
        _LOG.warning("%s: %d hands; the official evaluation expects %d", path, len(joints), FREIHAND_SAMPLES)
    wrist = joints[:, :1]
    lists = [
        [[[round(x, _DECIMALS) for x in point] for point in hand] for hand in (points - wrist).tolist()]
        for points in (joints.double(), vertices.double())
    ]
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pred.json", json.dumps(lists))
    return path
