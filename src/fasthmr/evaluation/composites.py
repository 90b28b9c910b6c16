"""One number for a model from several: the scores by which the light encoders are compared.

"On the Use of Hierarchical Vision Foundation Models ..." (arXiv 2510.12660) compares pose models by
Φ_P,2D = (AP + AR) / 2 on COCO val. For mesh models it lists PCK at 0.05 and 0.1 on LSP-Extended, COCO val and
PoseTrack val, and MPJPE and PA-MPJPE on 3DPW test and Human3.6M val; here these are summed up by plain means,
which is this package's reading and not the paper's word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import fmean

from fasthmr.errors import UsageError

MESH_2D_SETS = ("lsp-extended", "coco-val", "posetrack-val")
MESH_2D_THRESHOLDS = (0.05, 0.1)
MESH_3D_SETS = ("3dpw-test", "h36m-val-p2")


def phi_pose_2d(ap: float, ar: float) -> float:
    """Φ_P,2D: the mean of COCO keypoint AP and AR, in the unit given; larger is better."""
    return (ap + ar) / 2


def phi_mesh_2d(pck: Mapping[tuple[str, float], float]) -> float:
    """Φ_M,2D: the mean of PCK over all sets and thresholds, in the unit given; larger is better.

    Args:
        pck: By data set (`MESH_2D_SETS`) and threshold (`MESH_2D_THRESHOLDS`).

    Raises:
        UsageError: A combination is missing or unknown.
    """
    _demand(pck.keys(), [(name, threshold) for name in MESH_2D_SETS for threshold in MESH_2D_THRESHOLDS])
    return fmean(pck.values())


def phi_mesh_3d(mpjpe_mm: Mapping[str, float], pa_mpjpe_mm: Mapping[str, float]) -> float:
    """Φ_M,3D: the mean of MPJPE and PA-MPJPE over `MESH_3D_SETS`, millimetres; smaller is better.

    Raises:
        UsageError: A data set is missing or unknown.
    """
    _demand(mpjpe_mm.keys(), MESH_3D_SETS)
    _demand(pa_mpjpe_mm.keys(), MESH_3D_SETS)
    return fmean([*mpjpe_mm.values(), *pa_mpjpe_mm.values()])


def _demand(given: Collection[object], wanted: Collection[object]) -> None:
    if set(given) != set(wanted):
        raise UsageError(f"composite score over {sorted(map(str, given))}; needed: {list(map(str, wanted))}")
