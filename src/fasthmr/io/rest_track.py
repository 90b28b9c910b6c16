"""The rest pose of a person in a clip, as formats with skeletons need it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.lbs import dense_lbs_weights
from fasthmr.body.unpose import RestSkeleton, largest_weights, skin, unpose_joints, unpose_vertices
from fasthmr.results import Clip, Person

_FITTED, _CHECKED = 64, 25  # frames, spread evenly over the track


@dataclass(frozen=True, kw_only=True)
class RestTrack:
    """One rest mesh and one skeleton for all frames of a person; camera frame, metres.

    Attributes:
        rotations: Of every joint relative to its parent.
        vertices: The rest mesh.
        lbs_weights: Its weights, of which at most the largest of each vertex are kept.
        error_mm: Mean and largest distance between the skinned mesh and the person's vertices, over some
            frames.
    """

    rotations: Float[Tensor, "frames joints 3 3"]
    skeleton: RestSkeleton
    vertices: Float[Tensor, "vertices 3"]
    lbs_weights: Float[Tensor, "vertices joints"]
    error_mm: tuple[float, float]


def rest_skeleton(person: Person, clip: Clip) -> tuple[Float[Tensor, "frames joints 3 3"], RestSkeleton]:
    """Rotations relative to the parents, and the skeleton of constant bones that they move."""
    rotations = np.concatenate([person.global_orient, person.body_pose], axis=1)
    own = [torch.from_numpy(array).double() for array in (rotations, person.joints, person.transl)]
    return own[0], unpose_joints(*own, parents=clip.parents.tolist())


def rest_track(person: Person, clip: Clip, influences: int | None = None) -> RestTrack:
    """Fits the rest mesh to at least one frame; exact for a body of constant shape without correctives.

    Args:
        clip: With skinning weights.
        influences: Joints that may move a vertex; all if not given.
    """
    assert clip.lbs_weights is not None
    rotations, skeleton = rest_skeleton(person, clip)
    dense = torch.from_numpy(np.asarray(clip.lbs_weights)).double()
    joints = dense.shape[1]
    weights = dense_lbs_weights(*largest_weights(dense, influences or joints), joints)
    frames = _spread(len(rotations), _FITTED)
    vertices = unpose_vertices(_vertices(person, frames), _of_frames(skeleton, frames), weights)
    checked = _spread(len(rotations), _CHECKED)
    some = _of_frames(skeleton, checked)
    error = skin(vertices, some.world, some.offsets(), weights) - _vertices(person, checked)
    distance = 1000 * torch.linalg.vector_norm(error, dim=-1)
    return RestTrack(
        rotations=rotations,
        skeleton=skeleton,
        vertices=vertices,
        lbs_weights=weights,
        error_mm=(float(distance.mean()), float(distance.max())),
    )


def _spread(frames: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, frames - 1, min(frames, count)).round().astype(np.int64))


def _vertices(person: Person, frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(person.vertices[frames])).double()


def _of_frames(skeleton: RestSkeleton, frames: np.ndarray) -> RestSkeleton:
    return RestSkeleton(rest=skeleton.rest, world=skeleton.world[frames], joints=skeleton.joints[frames])
