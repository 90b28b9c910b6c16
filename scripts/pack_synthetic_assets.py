"""Make the compact environments and motion clips that come with the package from the full collections.

    python scripts/pack_synthetic_assets.py environments FULL_DIR src/fasthmr/assets/environments
    python scripts/pack_synthetic_assets.py motion FULL_DIR src/fasthmr/assets/motion

Only CC0 pictures and MIT or CC0 clips are taken. Pictures are made smaller, clips get fewer frames.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

SIZES = {"panorama": 512, "photo": 560, "texture": 256, "swatch": 116}
QUALITY = {"panorama": 82, "photo": 80, "texture": 75, "swatch": 80}
SWATCHES = ("fabric", "carpet")
KEPT_KEYS = (
    "id", "kind", "file", "place", "time", "scene", "category", "tiles", "light", "author", "licence",
    "source", "split",
)  # fmt: skip
MOTION_STEPS = {"idle": 10, "m2m": 2, "kaykit": 2}
MOTION_NOTE = """Motion clips that come with the package

idle*: ReActIdle dataset (Landa et al., 2025), MIT licence, converted to 24 joints and thinned to 3 frames/s.
m2mbase, m2maddon: Mesh2Motion animation library, CC0 1.0; kaykit: KayKit Adventurers, CC0 1.0; both
converted to 24 joints and thinned to 15 frames/s.
Arrays: <clip>/pose (T, 24, 3) axis-angle to the parent joint, y up, facing +z; <clip>/root (T, 3) metres.

Licence of the idle clips (github.com/Enekoassets/ReActIdle):

MIT License

Copyright (c) 2025 [RSAIT]

Permission is hereby granted, free of charge, to any person obtaining a copy
of this dataset and associated documentation files (the "Dataset"), to deal
in the Dataset without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Dataset, and to permit persons to whom the Dataset is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Dataset.

THE DATASET IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE DATASET OR THE USE OR OTHER DEALINGS IN THE
DATASET.
"""
ENVIRONMENT_NOTE = """Backgrounds, light and textures that come with the package

All items are CC0 1.0; index.json names author and source of each. Panoramas are 512 x 256, photos at most
560, textures 256, cloth patterns 116 pixels. lighting.npz: ids (N,), env (N, 32, 64, 3) linear radiance.
"""


def pack_environments(source: Path, out: Path) -> None:
    """Shrink the CC0 pictures and keep the light of their places."""
    index = json.loads((source / "index.json").read_text(encoding="utf-8"))
    items = []
    for item in index["items"]:
        unsuitable = item["kind"] == "swatch" and item["category"] not in SWATCHES
        if item["licence"] != "CC0-1.0" or unsuitable:
            continue
        kept = {key: item[key] for key in KEPT_KEYS if key in item}
        kept["source"] = f"{item['source']['repo']}@{item['source']['commit'][:12]}:{item['source']['path']}"
        items.append(kept)
        if item["file"] is None:
            continue
        picture = cv2.imread(str(source / item["file"]), cv2.IMREAD_COLOR)
        scale = SIZES[item["kind"]] / max(picture.shape[:2])
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        target = out / item["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY[item["kind"]]])
    wanted = {item["light"] for item in items if item["kind"] in ("panorama", "light")}
    with np.load(source / "lighting.npz", allow_pickle=False) as data:
        keep = np.isin(data["ids"], sorted(wanted))
        np.savez_compressed(out / "lighting.npz", ids=data["ids"][keep], env=data["env"][keep])
    text = json.dumps({"version": index["version"], "items": items}, indent=0)
    (out / "index.json").write_text(text, encoding="utf-8")
    (out / "LICENCE.txt").write_text(ENVIRONMENT_NOTE, encoding="utf-8")


def pack_motion(source: Path, out: Path) -> None:
    """Thin out the MIT and CC0 clips."""
    out.mkdir(parents=True, exist_ok=True)
    kept, arrays = [], {}
    for clip in json.loads((source / "index.json").read_text(encoding="utf-8")):
        step = next((s for name, s in MOTION_STEPS.items() if clip["subject"].startswith(name)), None)
        if step is None or clip["licence"] not in ("MIT", "CC0 1.0"):
            continue
        with np.load(source / clip["file"], allow_pickle=False) as data:
            pose, root = data[f"{clip['clip']}/pose"][::step], data[f"{clip['clip']}/root"][::step]
        file = f"{clip['subject'].rstrip('0123456789')}.npz"
        arrays.setdefault(file, {})[f"{clip['clip']}/pose"] = pose.astype(np.float16)
        arrays[file][f"{clip['clip']}/root"] = root.astype(np.float32)
        kept.append({**clip, "file": file, "frames": len(pose), "fps": clip["fps"] / step})
    for file, content in arrays.items():
        np.savez_compressed(out / file, **content)
    (out / "index.json").write_text(json.dumps(kept, indent=0), encoding="utf-8")
    (out / "LICENCE.txt").write_text(MOTION_NOTE, encoding="utf-8")


if __name__ == "__main__":
    what, source_folder, target_folder = sys.argv[1:]
    {"environments": pack_environments, "motion": pack_motion}[what](Path(source_folder), Path(target_folder))
