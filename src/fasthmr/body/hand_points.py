"""The 21 points of a hand that METRO, FastMETRO and FreiHAND use: wrist, then four of each finger.

Fingers stand in the order thumb, index, middle, ring, pinky.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.body.lbs import BodyModel
from fasthmr.errors import UsageError

HAND_POINTS = 21

_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
"""Among MANO's 16 joints and the five tips, thumb first."""

_MANO_TIPS = (745, 317, 445, 556, 673)
"""Vertices of MANO's mesh; 445 as in METRO's regressor (MANO's own layer has 444)."""

_OWN_TIPS = (4, 0, 1, 3, 2)
"""Among `fingertip_index` of the free hand, whose fingers stand in MANO's order."""


def hand_points(
    hand: BodyModel, vertices: Float[Tensor, "*batch vertices 3"], joints: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch 21 3"]:
    """The points of a posed hand.

    Raises:
        UsageError: It is no hand whose finger tips are known.
    """
    tips = _tips(hand)
    return torch.cat([joints, vertices[..., tips.to(vertices.device), :]], dim=-2)[..., list(_ORDER), :]


def hand_regressor(hand: BodyModel) -> Float[Tensor, "21 vertices"]:
    """The points from posed vertices, as METRO regresses them.

    Raises:
        UsageError: It is no hand whose joints and finger tips are known.
    """
    tips = _tips(hand)
    if hand.J_regressor is None:
        raise UsageError(f"'{hand.name}' holds no regressor of its joints")
    own = torch.eye(hand.num_vertices, dtype=hand.J_regressor.dtype)[tips.cpu()].to(hand.J_regressor)
    return torch.cat([hand.J_regressor, own])[list(_ORDER)]


def mean_hand_pose(hand: BodyModel) -> Float[Tensor, "joints_1 3"]:
    """Axis-angles that MANO's zero pose means: the mean of its poses, where the file holds one, else zero."""
    mean = hand.extras.get("hands_mean")
    if mean is None or mean.numel() != 3 * (hand.num_joints - 1):
        return hand.v_template.new_zeros(hand.num_joints - 1, 3)
    return mean.reshape(-1, 3).to(hand.v_template)


def _tips(hand: BodyModel) -> Int[Tensor, "5"]:
    own = hand.extras.get("fingertip_index")
    if hand.num_joints != 16 or (own is None and hand.num_vertices != 778):
        raise UsageError(f"'{hand.name}' is no hand with known finger tips; needed: MANO or the free hand")
    return torch.tensor(_MANO_TIPS) if own is None else own[list(_OWN_TIPS)]
