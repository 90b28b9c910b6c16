"""Surfaces that are computed on demand, in result files.

Frame by frame, 100 s of one person would be 500 MB. A rest mesh stands for them: `rest_vertices` and
`rest_joints`, which together with `poses`, `joints` and `lbs_weights` make plain linear blend skinning, and
`surface_error_mm`, its mean and largest error over some frames. Read again, the surface of the free body is
computed by that body and without error, that of other bodies from the rest mesh.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int

from fasthmr.body.chain import bone_vectors, joint_positions, world_rotations
from fasthmr.body.default_body import load_default_body
from fasthmr.body.posed import lazy_vertices
from fasthmr.body.unpose import skin, skinning_offsets
from fasthmr.io.rest_track import rest_track
from fasthmr.results import Clip, LazyVertices, Person

_FRAMES_AT_ONCE = 32


def surface_arrays(person: Person, clip: Clip) -> dict[str, np.ndarray]:
    """What stands for the surface of a person, seen in at least one frame of a clip with skinning weights."""
    track = rest_track(person, clip)
    return {
        "rest_vertices": track.vertices.float().numpy(),
        "rest_joints": track.skeleton.rest.float().numpy(),
        "surface_error_mm": np.array(track.error_mm, dtype=np.float32),
    }


def read_surface(person: Mapping[str, np.ndarray], clip: Mapping[str, np.ndarray]) -> LazyVertices:
    """The surface again, from the arrays of a person and of the clip, whose sizes fit each other."""
    names = ("global_orient", "body_pose", "betas", "transl")
    pose = {name: person[name].astype(np.float32) for name in names}
    coefficients = pose["betas"].shape[1]
    body = load_default_body(coefficients)
    if (
        str(clip["body"]) == body.name
        and clip["lbs_weights"].shape == body.lbs_weights.shape
        and coefficients == body.num_betas
    ):
        return lazy_vertices(body, **pose)
    rotations = np.concatenate([pose["global_orient"], pose["body_pose"]], axis=1)
    rest_joints, rest_vertices, weights = (
        torch.from_numpy(array.astype(np.float32))
        for array in (person["rest_joints"], person["rest_vertices"], clip["lbs_weights"])
    )
    parents = clip["parents"].tolist()
    bones = bone_vectors(rest_joints, parents)

    def skinned(picked: Int[np.ndarray, "picked"]) -> Float[np.ndarray, "picked vertices 3"]:
        surfaces = np.empty((len(picked), *rest_vertices.shape), dtype=np.float32)
        for start in range(0, len(picked), _FRAMES_AT_ONCE):
            some = picked[start : start + _FRAMES_AT_ONCE]
            world = world_rotations(torch.from_numpy(rotations[some]), parents)
            placed = bones.repeat(len(some), 1, 1)
            placed[:, 0] = torch.from_numpy(person["joints"][some, 0].astype(np.float32))
            offsets = skinning_offsets(rest_joints, world, joint_positions(world, placed, parents))
            surfaces[start : start + len(some)] = skin(rest_vertices, world, offsets, weights).numpy()
        return surfaces

    return LazyVertices(len(rotations), len(rest_vertices), skinned)
