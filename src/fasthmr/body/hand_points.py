"""The 21 points of a hand that METRO, FastMETRO and FreiHAND use: wrist, then four of each finger.

Fingers stand in the order thumb, index, middle, ring, pinky.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
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
    own = hand.extras.get("fingertip_index")
    if joints.shape[-2] != 16 or (own is None and hand.num_vertices != 778):
        raise UsageError(f"'{hand.name}' is no hand with known finger tips; needed: MANO or the free hand")
    tips = torch.tensor(_MANO_TIPS) if own is None else own[list(_OWN_TIPS)]
    return torch.cat([joints, vertices[..., tips.to(vertices.device), :]], dim=-2)[..., list(_ORDER), :]
