"""Joints and regressed keypoints of a body without its vertices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.lbs import BodyModel
from fasthmr.types import BodyParams


class KeypointBody(nn.Module):
    """Joints, then chosen rows of the keypoint regressor: exact, and as cheap as the joints alone.

    A regressed point of a skinned body is linear in the joint transforms A_j and in (1, betas): point k is
    sum_j A_j (M_kj0 + sum_b beta_b M_kjb), where M holds the regressor- and skinning-weighted sums of the
    homogeneous rest vertices.

    Args:
        rows: Rows of the keypoint regressor to give, in this order.

    Raises:
        ValueError: The body has no keypoint regressor, or pose correctives (which are not linear so).
    """

    moments: Float[Tensor, "keypoints joints 4 betas_1"]

    def __init__(self, body: BodyModel, rows: Sequence[int]) -> None:
        super().__init__()
        if body.keypoint_regressor is None or body.posedirs is not None:
            raise ValueError(f"body '{body.name}' needs a keypoint regressor and no pose correctives")
        self.body = body
        self.rows = tuple(rows)
        shape = torch.cat((body.v_template[..., None], body.shapedirs), dim=-1)
        one = torch.zeros_like(shape[:, :1])
        one[..., 0] = 1
        rest = torch.cat((shape, one), dim=1)
        regressor = body.keypoint_regressor[list(rows)]
        moments = torch.stack(
            [
                torch.einsum("vj,vab->jab", row[on, None] * body.lbs_weights[on], rest[on])
                for row in regressor
                for on in [row != 0]
            ]
        )
        self.register_buffer("moments", moments, persistent=False)

    @property
    def num_betas(self) -> int:
        return self.body.num_betas

    def forward(self, params: BodyParams) -> Float[Tensor, "*batch joints_keypoints 3"]:
        """Posed joints followed by the keypoints, metres, in the frame of the pose given."""
        transforms, joints = self.body.joint_transforms(params)
        homogeneous = torch.cat((params.betas.new_ones(*params.betas.shape[:-1], 1), params.betas), dim=-1)
        local = torch.einsum("kjab,...b->...kja", self.moments, homogeneous)
        keypoints = torch.einsum("...jca,...kja->...kc", transforms, local)
        points = torch.cat((joints, keypoints), dim=-2)
        return points if params.transl is None else points + params.transl[..., None, :]
