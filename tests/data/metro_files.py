"""Small data sets in the files of METRO, FastMETRO and TORE."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

COUNTS = {"body": (24, 72), "hand": (21, 48)}


def label(index: int, kind: Literal["body", "hand"] = "body") -> dict[str, Any]:
    """One person or hand, drawn at random."""
    joints, pose = COUNTS[kind]
    rng = np.random.default_rng(index)
    said = {
        "center": [40.0, 30.0],
        "scale": 0.25,
        "has_2d_joints": 1,
        "has_3d_joints": 1,
        "has_smpl": 1,
        "2d_joints": np.concatenate([rng.uniform(20, 40, (joints, 2)), np.ones((joints, 1))], 1).tolist(),
        "3d_joints": np.concatenate([rng.normal(size=(joints, 3)), np.ones((joints, 1))], 1).tolist(),
        "pose": (0.2 * rng.normal(size=pose)).tolist(),
        "betas": rng.normal(size=10).tolist(),
    }
    return said | ({"gender": "female"} if kind == "body" else {})


def write_tsv(
    folder: Path,
    count: int,
    *,
    name: str = "train",
    linelist: Sequence[int] = (),
    labels: Sequence[dict[str, Any]] | None = None,
    pictures: Sequence[str] | None = None,
) -> Path:
    """Pictures (60 x 80, reddish), sizes, labels and offsets; returns the YAML file."""
    rgb = np.full((60, 80, 3), (200, 20, 20), dtype=np.uint8)
    coded = base64.b64encode(cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()).decode()
    labels = [label(index) for index in range(count)] if labels is None else labels
    columns = {
        "img": pictures or [coded] * count,
        "hw": [json.dumps([{"height": 60, "width": 80}])] * count,
        "label": [json.dumps([entry]) for entry in labels],
    }
    for kind, values in columns.items():
        rows = [f"picture_{index}\t{value}\n" for index, value in enumerate(values)]
        (folder / f"{name}.{kind}.tsv").write_text("".join(rows))
        starts = np.cumsum([0, *(len(row.encode()) for row in rows[:-1])])
        (folder / f"{name}.{kind}.lineidx").write_text("".join(f"{start}\n" for start in starts))
    lines = f"img: {name}.img.tsv\nhw: {name}.hw.tsv\nlabel: {name}.label.tsv\n"
    if linelist:
        (folder / f"{name}.linelist.tsv").write_text("".join(f"{row}\n" for row in linelist))
        lines += f"linelist: {name}.linelist.tsv\n"
    path = folder / f"{name}.yaml"
    path.write_text(lines)
    return path
