"""FastMETRO's terms for pose and shape that are read from the mesh."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fasthmr.training.mesh_subject import MeshSubject
from fasthmr.training.tore_losses import MeshLabels, MeshLossConfig
from fasthmr.training.tore_terms import (
    joints_2d_loss,
    joints_3d_loss,
    parameter_loss,
    project_weak,
    vertices_loss,
)
from fasthmr.types import BodyParams

PARAMETERS_WEIGHT = 1000.0
"""Of pose and shape themselves, as released; what they make weighs as the mesh does."""


class ParameterLosses:
    """Pose and shape against the truth, and so the body that they make, about its regressed root.

    Args:
        config: Of the mesh's own terms.
    """

    def __init__(self, config: MeshLossConfig, subject: MeshSubject) -> None:
        self._config, self._body = config, subject.fitted
        self._joints = subject.joints(fitted=True)

    def __call__(
        self, params: BodyParams, camera: Float[Tensor, "batch 3"], true: BodyParams, labels: MeshLabels
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms."""
        config, has_mesh = self._config, labels.has_mesh
        found, given = (p.rotmats for p in (params, true))
        vertices = self._body(params).vertices
        points, root = self._joints(vertices)
        points = points - root
        squared = config.squared
        return {
            "parameters": PARAMETERS_WEIGHT
            * parameter_loss(found, params.betas, given, true.betas, has_mesh),
            "body_vertices": config.vertices * vertices_loss(vertices - root, labels.vertices[-1], has_mesh),
            "body_joints_3d": config.joints_3d
            * joints_3d_loss(points, labels.joints_3d, labels.has_3d, squared=squared, root=config.root),
            "body_joints_2d": config.joints_2d
            * joints_2d_loss(project_weak(points, camera), labels.joints_2d, squared=squared),
        }
