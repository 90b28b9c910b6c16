"""How published numbers were measured: joint set, regressor, root, alignment, split and unit.

Numbers of different protocols do not compare, even on the same pictures: HMR 2.0 and CameraHMR report 3DPW
with different regressors, METRO's scripts ignore the gender of its people. `fasthmr.evaluation.evaluate`
takes one of these names and refuses points that do not fit it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from fasthmr.body.skeletons import (
    BODY_JOINTS_OF_17,
    HMR2_44_NAMES,
    HMR2_44_PELVIS,
    HMR2_EVAL14,
    HMR2_EXTRA19_NAMES,
    SMPL_JOINT_NAMES,
)
from fasthmr.errors import UsageError, did_you_mean

Metric = Literal["mpjpe", "pa_mpjpe", "pve", "pa_pve", "accel", "f_score", "auc", "pck"]

UNITS: dict[str, str] = {
    "mpjpe": "mm",
    "pa_mpjpe": "mm",
    "pve": "mm",
    "pa_pve": "mm",
    "accel_mm": "mm/frame^2",
    "accel_m_s2": "m/s^2",
    "f@5mm": "0..1",
    "f@15mm": "0..1",
    "auc": "0..1",
    "pck@0.05": "percent",
    "pck@0.1": "percent",
}
"""Unit of every value that an evaluation can hold."""

J14_NAMES: tuple[str, ...] = (*HMR2_EXTRA19_NAMES[:13], "head_h36m")
"""The fourteen joints of the body protocols: LSP's limbs and neck, and the head of Human3.6M."""


@dataclass(frozen=True, kw_only=True)
class PointSet:
    """Points as a regressor or an annotation file gives them, and which of them count.

    Attributes:
        count: Points before the choice.
        joints: Those that count, in the order of `names`.
        names: What the chosen joints are.
        root: Points whose middle is the origin of MPJPE; none where roots are not moved.
        mesh_root: Points whose middle is the origin of the per-vertex error.
    """

    name: str
    count: int
    joints: tuple[int, ...]
    names: tuple[str, ...]
    root: tuple[int, ...] = ()
    mesh_root: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.joints) != len(self.names) or max((*self.joints, *self.root)) >= self.count:
            raise ValueError(f"PointSet {self.name}: {len(self.joints)} joints, {len(self.names)} names")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One published way to measure.

    Attributes:
        split: Data set and part of it.
        points: Joint set of predictions, and of the truth unless `annotated` says otherwise.
        annotated: Joint set of a truth that comes as keypoints of a file, not from a mesh.
        regressor: What takes mesh vertices to the points, in words; the matrix comes from the user.
        truth: What stands for the truth.
        reflection: Whether Procrustes alignment may mirror (it must not for a body).
        metrics: What is reported; those of vertices only where both sides have them.
        fps: Frame rate of the sequences, for m/s^2.
        pck_thresholds: Shares of the longer side of the annotated (not grown) box.
        min_confidence: 2D points of the truth count above this.
        source: Where the protocol is written down or in whose code it stands.
    """

    name: str
    split: str
    points: PointSet
    annotated: PointSet | None = None
    regressor: str
    truth: str
    reflection: bool = False
    metrics: tuple[Metric, ...]
    fps: float | None = None
    pck_thresholds: tuple[float, ...] = (0.05, 0.1)
    min_confidence: float = 0.5
    source: str

    @property
    def is_2d(self) -> bool:
        return "pck" in self.metrics

    def describe(self) -> str:
        """The protocol in lines of `field: value`."""
        return "\n".join(f"{field.name}: {getattr(self, field.name)}" for field in fields(self))


HMR2_44 = PointSet(
    name="44 joints of HMR 2.0, 14 of them",
    count=44,
    joints=HMR2_EVAL14,
    names=J14_NAMES,
    root=(HMR2_44_PELVIS,),
)
HMR2_44_ALL = PointSet(
    name="44 joints of HMR 2.0", count=44, joints=tuple(range(44)), names=HMR2_44_NAMES, root=()
)
H36M_17_LEFT_FIRST = PointSet(
    name="17 joints of SPIN's Human3.6M regressor (left leg first), 14 of them",
    count=17,
    joints=(6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10),
    names=J14_NAMES,
    root=(0,),
    mesh_root=(0,),
)
H36M_17_RIGHT_FIRST = PointSet(
    name="17 joints of METRO's Human3.6M regressor (right leg first), 14 of them",
    count=17,
    joints=BODY_JOINTS_OF_17,
    names=J14_NAMES,
    root=(1, 4),
    mesh_root=(0,),
)
METRO_24 = PointSet(
    name="24 annotated joints of METRO's files, 14 of them",
    count=24,
    joints=(*range(13), 18),
    names=J14_NAMES,
    root=(2, 3),
)
SMPL_24 = PointSet(
    name="24 SMPL joints",
    count=24,
    joints=tuple(range(24)),
    names=SMPL_JOINT_NAMES,
    root=(1, 2),
    mesh_root=(1, 2),
)
HAND_21 = PointSet(
    name="21 hand joints of FreiHAND",
    count=21,
    joints=tuple(range(21)),
    names=("wrist", *(f"{f}{i}" for f in ("thumb", "index", "middle", "ring", "pinky") for i in range(1, 5))),
    root=(0,),
    mesh_root=(0,),
)

_HMR2_SOURCE = "4D-Humans (arXiv 2305.20091), evaluator of the released code"
_HMR2_REGRESSOR = "SMPL joints and picked vertices, then 19 rows of SMPL_to_J19 (body.joints44.Joints44)"
_METRO_SOURCE = "METRO, FastMETRO, TORE: evaluation of the released code"
_METRO_REGRESSOR = "17 rows of METRO's J_regressor_h36m_correct on the fine mesh"


def _hmr2_3d(name: str, split: str) -> Protocol:
    return Protocol(
        name=name,
        split=split,
        points=HMR2_44,
        regressor=_HMR2_REGRESSOR,
        truth="annotated 44 joints",
        metrics=("mpjpe", "pa_mpjpe"),
        source=_HMR2_SOURCE,
    )


def _hmr2_2d(name: str, split: str) -> Protocol:
    return Protocol(
        name=name,
        split=split,
        points=HMR2_44_ALL,
        regressor=_HMR2_REGRESSOR + ", projected",
        truth="annotated keypoints with confidence",
        metrics=("pck",),
        source=_HMR2_SOURCE,
    )


def _metro(name: str, split: str, truth: str, annotated: PointSet | None) -> Protocol:
    return Protocol(
        name=name,
        split=split,
        points=H36M_17_RIGHT_FIRST,
        annotated=annotated,
        regressor=_METRO_REGRESSOR,
        truth=truth,
        metrics=("mpjpe", "pa_mpjpe", "pve"),
        source=_METRO_SOURCE,
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _hmr2_3d("hmr2_3dpw", "3DPW test"),
        _hmr2_3d("hmr2_h36m_p2", "Human3.6M S9 and S11, camera 60457274 (protocol 2)"),
        _hmr2_2d("hmr2_lsp_extended", "LSP-Extended"),
        _hmr2_2d("hmr2_coco_val", "COCO val"),
        _hmr2_2d("hmr2_posetrack_val", "PoseTrack val"),
        Protocol(
            name="fasthmr_3dpw",
            split="3DPW test, frames with campose_valid",
            points=H36M_17_LEFT_FIRST,
            regressor="17 rows of SPIN's J_regressor_h36m on both meshes",
            truth="gendered SMPL meshes",
            metrics=("mpjpe", "pa_mpjpe", "pve", "accel"),
            fps=30.0,
            source="CameraHMR (arXiv 2411.08128) and FastHMR (arXiv 2510.10868), table 1",
        ),
        Protocol(
            name="fasthmr_emdb1",
            split="EMDB 1 (17 sequences), good frames",
            points=SMPL_24,
            regressor="24 rows of the neutral SMPL J_regressor on both meshes",
            truth="gendered SMPL meshes",
            metrics=("mpjpe", "pa_mpjpe", "pve", "accel"),
            fps=30.0,
            source="CameraHMR (arXiv 2411.08128) and FastHMR (arXiv 2510.10868), table 1",
        ),
        _metro("tore_h36m_p2", "Human3.6M valid.protocol2", "annotated 24 joints; no meshes", METRO_24),
        _metro(
            "tore_3dpw", "3DPW test_has_gender", "meshes of the neutral body, as the scripts build", METRO_24
        ),
        _metro(
            "tore_3dpw_gendered", "3DPW test_has_gender", "gendered SMPL meshes, not as published", METRO_24
        ),
        Protocol(
            name="freihand",
            split="FreiHAND evaluation",
            points=HAND_21,
            regressor="21 rows of the MANO regressor with finger tips",
            truth="annotated joints and 778 vertices",
            reflection=True,
            metrics=("pa_mpjpe", "pa_pve", "f_score", "auc"),
            source="FreiHAND (arXiv 1909.04349), official evaluation; joints and vertices aligned separately",
        ),
    )
}


def protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        UsageError: There is no such protocol.
    """
    if name not in PROTOCOLS:
        raise UsageError(
            f"no protocol '{name}'{did_you_mean(name, list(PROTOCOLS))}; known: {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]
