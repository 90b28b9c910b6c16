from __future__ import annotations

import pytest

from fasthmr.errors import UsageError
from fasthmr.evaluation.composites import phi_mesh_2d, phi_mesh_3d, phi_pose_2d


def test_pose_score_of_vitpose_h():
    assert phi_pose_2d(79.1, 84.1) == pytest.approx(81.6)


def test_mesh_scores_are_means():
    pck = {
        (name, threshold): value
        for name, pair in {
            "lsp-extended": (50.0, 80.0),
            "coco-val": (70.0, 90.0),
            "posetrack-val": (60.0, 100.0),
        }.items()
        for threshold, value in zip((0.05, 0.1), pair, strict=True)
    }
    assert phi_mesh_2d(pck) == pytest.approx(75.0)
    errors = {"3dpw-test": 80.0, "h36m-val-p2": 50.0}
    aligned = {"3dpw-test": 50.0, "h36m-val-p2": 36.0}
    assert phi_mesh_3d(errors, aligned) == pytest.approx(54.0)
    with pytest.raises(UsageError, match="3dpw-test"):
        phi_mesh_3d({"3dpw-test": 80.0}, aligned)
