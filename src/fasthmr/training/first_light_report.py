"""Report `first_light`: the default model against honest floors, on synthetic people and on real photos."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.data.augment import AugmentConfig, RecordStore, TrainBatch, make_batch
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.shards import load_shards, write_shards
from fasthmr.data.synthetic import package_assets
from fasthmr.evaluation.metrics import (
    bootstrap_interval,
    mpjpe_mm,
    pa_mpjpe_mm,
    pck,
    pve_mm,
    vertex_areas,
)
from fasthmr.geometry.cameras import crop_camera_to_full, default_focal, intrinsics, project_to_crop
from fasthmr.geometry.crops import crop_pictures
from fasthmr.geometry.rotations import axis_angle_to_rotmat, geodesic_angle, rot6d_to_rotmat, rotmat_to_rot6d
from fasthmr.io.atomic import write_bytes
from fasthmr.io.images import read_image, write_image
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.render.overlay import overlay
from fasthmr.training.lifter import camera_rotations, draw_poses
from fasthmr.types import BodyParams, Crop, HMROutput, Mesh
from fasthmr.zoo import create_model

_LOG = logging.getLogger(__name__)
_METRICS = ("MPJPE", "PA-MPJPE", "PVE", "PVE area", "root angle")
_COCO_FROM_POINTS = (24, 25, 26, 27, 28, 16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)
"""COCO-17 among `POINT_NAMES`; shoulders and hips are the joints of the body there."""


@dataclass(frozen=True, kw_only=True)
class FirstLightReportConfig:
    """What to measure.

    Attributes:
        data: Folder of shards of the split `test`; missing ones are rendered first.
        photos: Folder with `annotations.json` (boxes and COCO-17 keypoints) and its pictures; None leaves
            real photos out.
        out: The report; pictures go beside it.
        checkpoint: Weights other than the package's.
        wardrobe, environments, motion: As in the recipe.
    """

    data: Path
    photos: Path | None = None
    out: Path = Path("docs/reports/first_light.md")
    preset: str = "fasthmr_m"
    checkpoint: Path | None = None
    people: int = 2000
    wardrobe: Path | None = None
    environments: Path | None = None
    motion: Path | None = None
    workers: int = 2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Pose of every test person as one predictor sees it."""

    rotations: Float[Tensor, "people 24 3 3"]
    betas: Float[Tensor, "people betas"]


@torch.inference_mode()
def report(config: FirstLightReportConfig) -> None:
    """Measure and write the report."""
    people = {"split": "test", "seed": config.seed}
    people |= {key: getattr(config, key) for key in ("wardrobe", "environments", "motion")}
    if not list(config.data.glob("*.labels.npz")):
        write_shards(people, config.data, config.people, config.workers)
    store = RecordStore(load_shards(config.data))
    model = cast(
        KeypointHMR,
        create_model(config.preset, checkpoint=config.checkpoint, pretrained=config.checkpoint is None),
    )
    body = load_default_body()
    library = MotionLibrary.load(config.motion or package_assets("motion"), "train")
    count = min(config.people, len(store))
    batch = _batches(store, model, count)
    predicted, xy = _predict(model, batch)
    mean = _mean_pose(library, config.seed).expand(count, -1, -1, -1)
    floor = Predicted(rotations=mean, betas=torch.zeros(count, body.num_betas))
    lines = [
        "# First light: the default model against its floors",
        "",
        f"`fasthmr report first_light` on preset `{config.preset}` "
        f"({sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters).",
        "",
        *_synthetic_section(store, batch, predicted, floor, body, library, config, xy),
    ]
    if config.photos is not None:
        lines += _photo_section(config.photos, model, body, store, config.out.parent)
    write_bytes(config.out, ("\n".join(lines) + "\n").encode())
    _LOG.info("%s written", config.out)


def _batches(store: RecordStore, model: KeypointHMR, count: int) -> TrainBatch:
    size = model.config.encoder.image_size
    generator = torch.Generator().manual_seed(0)
    parts = [
        make_batch(store.batch(rows), AugmentConfig.none(), generator, size[0], size)
        for rows in torch.arange(count).split(256)
    ]
    return TrainBatch(**{key: torch.cat([vars(part)[key] for part in parts]) for key in vars(parts[0])})


def _predict(model: KeypointHMR, batch: TrainBatch) -> tuple[Predicted, Float[Tensor, "people 35 2"]]:
    outputs = [model.estimate(pixels) for pixels in batch.pixels.split(64)]
    poses = [output.pose for output in outputs]
    return (
        Predicted(
            rotations=torch.cat([pose.rotmats for pose in poses]), betas=torch.cat([p.betas for p in poses])
        ),
        torch.cat([output.points.xy for output in outputs]),
    )


def _mean_pose(library: MotionLibrary, seed: int) -> Float[Tensor, "24 3 3"]:
    """Mean joint rotations of the training motion, upright and facing the camera."""
    mean = axis_angle_to_rotmat(draw_poses(library, 5000, seed)).mean(dim=0)
    mean = rot6d_to_rotmat(rotmat_to_rot6d(mean, layout="columns"), layout="columns")
    mean[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    return mean


def _errors(
    predicted: Predicted, batch: TrainBatch, body: BodyModel, areas: Tensor
) -> dict[str, Float[Tensor, "people"]]:
    rows: dict[str, list[Tensor]] = {name: [] for name in _METRICS}
    for part in torch.arange(len(predicted.betas)).split(64):
        ours = body(BodyParams.of_rotmats(predicted.rotations[part], predicted.betas[part]))
        true = body(BodyParams.of_rotmats(batch.rotations[part], batch.betas[part]))
        rows["MPJPE"].append(mpjpe_mm(ours.joints, true.joints))
        rows["PA-MPJPE"].append(pa_mpjpe_mm(ours.joints, true.joints))
        centred = ours.vertices - ours.joints[:, :1], true.vertices - true.joints[:, :1]
        rows["PVE"].append(pve_mm(*centred))
        rows["PVE area"].append(pve_mm(*centred, areas))
        angle = geodesic_angle(predicted.rotations[part, 0], batch.rotations[part, 0])
        rows["root angle"].append(torch.rad2deg(angle))
    return {name: torch.cat(values) for name, values in rows.items()}


def _synthetic_section(
    store: RecordStore,
    batch: TrainBatch,
    predicted: Predicted,
    floor: Predicted,
    body: BodyModel,
    library: MotionLibrary,
    config: FirstLightReportConfig,
    xy: Tensor,
) -> list[str]:
    count = len(predicted.betas)
    areas = vertex_areas(body.v_template, body.faces)
    ours, mean = _errors(predicted, batch, body, areas), _errors(floor, batch, body, areas)
    joints = _mean_joints(library, body, config.seed).expand(count, -1, -1)
    true = batch.points_3d[:, :24]
    constant = mpjpe_mm(joints, true), pa_mpjpe_mm(joints, true)
    lines = [
        f"## {count} synthetic test people (unseen motion subjects, shapes and backgrounds)",
        "",
        "Millimetres, pelvis aligned, 24 joints; mean with its 95 % bootstrap interval. `PVE area` weights "
        "vertices by area: plain PVE on this mesh is mostly head and hands.",
        "",
        "| predictor | " + " | ".join(_METRICS[:4]) + " | root angle (deg) |",
        "| --- | --- | --- | --- | --- | --- |",
        _row("**model**", ours),
        _row("mean pose facing the camera (floor)", mean),
        f"| mean joint positions in the camera frame (floor) | {_value(constant[0])} | {_value(constant[1])} "
        "| - | - | - |",
        "",
    ]
    scale = _sides(batch)
    inside = batch.inside
    constant_xy = torch.where(inside[..., None], batch.points, 0.0).sum(0) / inside.sum(0)[:, None]
    table = (
        ("model, heat maps", xy),
        ("mean layout in the crop (floor)", constant_xy.expand_as(batch.points)),
    )
    lines += [
        "2D points inside the crop (35 points), threshold as a fraction of the person's longer side:",
        "",
    ]
    lines += ["| predictor | PCK@0.05 | PCK@0.1 |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | "
        + " | ".join(f"{pck(points, batch.points, inside, scale, t):.1f}" for t in (0.05, 0.1))
        + " |"
        for name, points in table
    ]
    for title, key in (("By action of the pose", "action"), ("By part of the body in the box", "part")):
        names = store.labels(key)[:count]
        lines += ["", f"{title}: PA-MPJPE and MPJPE, model (mean pose in brackets).", ""]
        lines += [f"| {key} | people | PA-MPJPE | MPJPE |", "| --- | --- | --- | --- |"]
        for name in sorted(set(names.tolist())):
            on = torch.from_numpy(names == name)
            cells = [
                f"{ours[metric][on].mean():.1f} ({mean[metric][on].mean():.1f})"
                for metric in ("PA-MPJPE", "MPJPE")
            ]
            lines.append(f"| {name} | {int(on.sum())} | " + " | ".join(cells) + " |")
    return lines


def _sides(batch: TrainBatch) -> Float[Tensor, "people"]:
    """Longer side of the points inside the crop, crop units."""
    far = torch.where(batch.inside[..., None], batch.points, torch.tensor(torch.inf))
    near = torch.where(batch.inside[..., None], batch.points, torch.tensor(-torch.inf))
    return (near.amax(1) - far.amin(1)).amax(-1).clamp(min=0.2, max=1)


def _mean_joints(library: MotionLibrary, body: BodyModel, seed: int) -> Float[Tensor, "24 3"]:
    """Mean camera-frame joints of training poses under random headings."""
    rotations = axis_angle_to_rotmat(draw_poses(library, 5000, seed))
    generator = torch.Generator().manual_seed(seed)
    root = camera_rotations(len(rotations), generator) @ rotations[:, 0]
    rotations = torch.cat((root[:, None], rotations[:, 1:]), dim=1)
    joints = body.joints(BodyParams.of_rotmats(rotations, torch.zeros(len(rotations), body.num_betas)))
    return (joints - joints[:, :1]).mean(dim=0)


def _row(name: str, errors: dict[str, Tensor]) -> str:
    cells = [_value(errors[metric]) for metric in _METRICS]
    return f"| {name} | " + " | ".join(cells) + " |"


def _value(errors: Tensor) -> str:
    low, high = bootstrap_interval(errors)
    return f"{errors.mean():.1f} ({low:.1f}-{high:.1f})"


def _photo_section(
    folder: Path, model: KeypointHMR, body: BodyModel, store: RecordStore, figures: Path
) -> list[str]:
    annotations = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    layout = _mean_layout(store)
    mesh_points, heat_points, floors, truths, valids, sizes = [], [], [], [], [], []
    for number, image in enumerate(annotations["images"]):
        rgb = read_image(folder / image["file"])
        boxes = torch.tensor([person["bbox_xyxy"] for person in image["persons"]], dtype=torch.float32)
        crop = crop_pictures(rgb, boxes, model.crop_size)
        output = model(crop.pixels)
        keypoints_3d = body.keypoints(body(output.params).vertices)[:, :17]
        to_pixels = crop.box_size[:, None, None]
        mesh_points.append(
            project_to_crop(keypoints_3d, output.camera) * to_pixels + crop.box_center[:, None]
        )
        assert output.keypoints is not None
        heat_points.append(
            output.keypoints.xy[:, list(_COCO_FROM_POINTS)] * to_pixels + crop.box_center[:, None]
        )
        floors.append(boxes[:, None, :2] + layout * (boxes[:, None, 2:] - boxes[:, None, :2]))
        marked = torch.tensor([person["keypoints"] for person in image["persons"]]).float().view(-1, 17, 3)
        truths.append(marked[..., :2])
        valids.append(marked[..., 2] > 0)
        sizes.append((boxes[:, 2:] - boxes[:, :2]).amax(-1))
        _draw(figures / f"first_light_photo_{number}.jpg", rgb, output, crop, body)
    truth, valid, size = torch.cat(truths), torch.cat(valids), torch.cat(sizes)
    lines = [
        "",
        f"## {len(size)} people in {len(annotations['images'])} real photos, given boxes",
        "",
        f"{int(valid.sum())} annotated COCO-17 keypoints; threshold as a fraction of the longer side of the "
        "annotated box, accuracy per keypoint, then the mean over keypoints (HMR 2.0's evaluator). So few "
        "people give several points of sampling error.",
        "",
        "| predictor | PCK@0.05 | PCK@0.1 | PCK@0.2 |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in (
        ("**model**, keypoints of the mesh", mesh_points),
        ("model, heat maps", heat_points),
        ("mean layout in the box (floor)", floors),
    ):
        values = [pck(torch.cat(found), truth, valid, size, threshold) for threshold in (0.05, 0.1, 0.2)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    lines += [""] + [
        f"![{image['file']}](first_light_photo_{number}.jpg)"
        for number, image in enumerate(annotations["images"])
    ]
    return lines


def _mean_layout(store: RecordStore) -> Float[Tensor, "17 2"]:
    """Mean place of the COCO keypoints in the box of synthetic people shown whole, 0..1 of its sides."""
    whole = store.labels("part") == "full"
    boxes, points = store.labels("box_xyxy")[whole], store.labels("coco17")[whole]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return torch.from_numpy(((points - low) / (high - low)).mean(axis=0))


def _draw(path: Path, rgb: np.ndarray, output: HMROutput, crop: Crop, body: BodyModel) -> None:
    """Lay the meshes over the photo and write it, reduced."""
    image_size = crop.image_size[0]
    focal = default_focal(image_size)
    transl = crop_camera_to_full(
        output.camera, crop.box_center, crop.box_size, crop.image_size, focal.expand(len(output.camera))
    )
    vertices = body(output.params).vertices + transl[:, None]
    meshes = [Mesh(vertices=one, faces=body.faces) for one in vertices]
    drawn = overlay(rgb, meshes, intrinsics(focal, image_size), alpha=0.8)
    side = max(drawn.shape[:2])
    step = max(1, side // 700)
    write_image(path, np.ascontiguousarray(drawn[::step, ::step]))
