"""Kind `fasthmr.hybrik`: twists, forward kinematics and the swing-twist solvers."""

from __future__ import annotations

import torch
from parity_lib import Case, Pair, Result, checker
from torch import Tensor

from fasthmr.body.ik import IK_CHILDREN, IK_PARENTS, forward_kinematics
from fasthmr.body.swing_twist import solve_rotations, twists_of


@checker("fasthmr.hybrik")
def check_hybrik(case: Case) -> Result:
    inputs, guard = case.under("input"), case.meta["config"]["fallback_threshold_m"]
    rest, true = inputs["rest_joints"], inputs["rotmats_true"]
    given = inputs["joints"], inputs["phi"], rest
    adaptive = solve_rotations(*given, guard=guard, swing="released")
    naive = solve_rotations(*given, solver="naive", root="analytic", swing="released")

    def joints(rotmats: Tensor) -> Tensor:
        return forward_kinematics(rotmats, rest.to(rotmats.dtype))[0]

    result: dict[str, Tensor | Pair] = {
        "output/phi_from_rotmats": twists_of(true, rest.to(true.dtype)),
        "output/joints_fk": joints(true),
        "output/rotmats_adaptive": adaptive,
        "output/rotmats_naive": naive,
        "output/rotmats_progressive_analytic_root": solve_rotations(
            *given, root="analytic", guard=None, swing="released"
        ),
        "output/joints_adaptive": joints(adaptive),
        "output/joints_naive": joints(naive),
    }
    tree = {"input/parents": list(IK_PARENTS), "input/children": [*IK_CHILDREN, *[-1] * 5]}
    for name, ours in tree.items():
        if name in case.tensors:
            result[name] = Pair(
                actual=torch.tensor(ours), expected=case.tensors[name], tolerance={"exact": True}
            )
    return result
