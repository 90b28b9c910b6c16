"""Errors of mesh models as the scripts of METRO, FastMETRO and TORE count them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.evaluation.metrics import f_scores, mpjpe_mm, pa_mpjpe_mm, pve_mm
from fasthmr.geometry.alignment import similarity_align
from fasthmr.training.mesh_subject import MeshSubject
from fasthmr.training.tore_data import MeshBatch, MeshSource

Predict = Callable[[MeshBatch], Float[Tensor, "batch vertices 3"]]
"""Vertices of the finest level."""


@torch.no_grad()
def measure(
    subject: MeshSubject, predict: Predict, source: MeshSource, count: int
) -> dict[str, Float[Tensor, " samples"]]:
    """Errors of each sample in mm, on the finest mesh; of samples that come with joints, or with a mesh.

    Bodies: MPJPE of the regressed joints about the middle of the hips, PA-MPJPE, and MPVE about the pelvis.
    Hands: FreiHAND's errors, whose alignment may mirror and is made for joints and vertices apart.
    """
    joints_of = subject.joints(fitted=False)
    hand = subject.kind == "hand"
    rows: dict[str, list[Tensor]] = {}
    for indices in torch.arange(min(count, len(source))).split(64):
        batch = source.batch(indices, None)
        found = predict(batch)
        true = subject.body(batch.params).vertices
        (points, root), (true_points, true_root) = joints_of(found), joints_of(true)
        has_3d = has_mesh = torch.ones(len(points), dtype=torch.bool)
        if batch.annotated:
            true_points = batch.labels.joints_3d[..., :3]
            has_3d, has_mesh = batch.labels.has_3d > 0, batch.labels.has_mesh > 0
        points, true_points = points[has_3d], true_points[has_3d]
        found, true = (found - root)[has_mesh], (true - true_root)[has_mesh]
        errors = {
            "MPJPE": mpjpe_mm(points, true_points, root=0 if hand else (2, 3)),
            "PA-MPJPE": pa_mpjpe_mm(points, true_points, reflection=hand),
            "MPVE": pve_mm(found, true),
        }
        if hand:
            errors |= _aligned_hands(found, true)
        for name, values in errors.items():
            rows.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in rows.items()}


def _aligned_hands(
    found: Float[Tensor, "batch vertices 3"], true: Float[Tensor, "batch vertices 3"]
) -> dict[str, Tensor]:
    aligned = similarity_align(found, true, reflection=True)
    scores = f_scores(aligned, true)
    return {"PA-MPVE": pve_mm(aligned, true), "F@5": scores[:, 0], "F@15": scores[:, 1]}
