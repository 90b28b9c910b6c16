"""Surfaces of many frames, computed from the pose when they are asked for."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from fasthmr.body.lbs import BodyModel
from fasthmr.results import LazyVertices
from fasthmr.types import BodyParams

_FRAMES_AT_ONCE = 32


def lazy_vertices(
    body: BodyModel,
    *,
    global_orient: Float[np.ndarray, "frames 1 3 3"],
    body_pose: Float[np.ndarray, "frames joints_1 3 3"],
    betas: Float[np.ndarray, "frames num_betas"],
    transl: Float[np.ndarray, "frames 3"],
) -> LazyVertices:
    """The surface of a body in every frame, as `results.Person` holds it for a video.

    Raises:
        ValueError: The pose has another number of joints than the body.
    """
    if body_pose.shape[1] != body.num_joints - 1:
        raise ValueError(
            f"a pose of {body_pose.shape[1] + 1} joints does not fit the body '{body.name}' "
            f"of {body.num_joints}"
        )

    @torch.inference_mode()
    def pose(picked: Int[np.ndarray, "picked"]) -> Float[np.ndarray, "picked vertices 3"]:
        surfaces = np.empty((len(picked), body.num_vertices, 3), dtype=np.float32)
        for start in range(0, len(picked), _FRAMES_AT_ONCE):
            some = picked[start : start + _FRAMES_AT_ONCE]
            params = BodyParams(
                global_orient=torch.from_numpy(global_orient[some]).to(body.v_template),
                body_pose=torch.from_numpy(body_pose[some]).to(body.v_template),
                betas=torch.from_numpy(betas[some]).to(body.v_template),
                transl=torch.from_numpy(transl[some]).to(body.v_template),
            )
            surfaces[start : start + len(some)] = body(params).vertices.cpu().numpy()
        return surfaces

    return LazyVertices(len(transl), body.num_vertices, pose)
