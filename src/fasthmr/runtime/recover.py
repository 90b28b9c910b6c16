"""The steps between crops and people: network, place in the camera of the picture, records."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.body.transfer import transfer_params
from fasthmr.errors import ResourceError, UnsafeFileError
from fasthmr.geometry.cameras import crop_camera_to_full, project
from fasthmr.results import Person
from fasthmr.types import BodyMesh, BodyParams, Crop, Detections, HMROutput, Keypoints2D

_log = logging.getLogger(__name__)
_MIN_SCALE = 0.05  # of the crop camera; a smaller or negative one puts the person out of reach


@dataclass(frozen=True, kw_only=True)
class PlacedPeople:
    """People in the camera frame of their picture, metres."""

    params: BodyParams
    mesh: BodyMesh


def run_model(
    model: nn.Module, pixels: Float[Tensor, "persons 3 size size"], batch_size: int, device: torch.device
) -> HMROutput:
    """The model on all crops, `batch_size` at once; half as many after each time that memory runs out.

    Raises:
        ResourceError: Memory is used up even with one crop at a time.
    """
    outputs: list[HMROutput] = []
    done = 0
    while done < len(pixels):
        try:
            outputs.append(model(pixels[done : done + batch_size].to(device)))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if batch_size == 1:
                raise ResourceError(
                    "memory is used up with one person at a time; use a smaller model"
                ) from error
            batch_size = max(batch_size // 2, 1)
            _log.warning("memory is used up; going on with %d people at a time", batch_size)
            continue
        done += batch_size
    return _join(outputs)


def place_people(
    output: HMROutput, crop: Crop, focal: Float[Tensor, ""], params_body: BodyModel, body: BodyModel
) -> PlacedPeople:
    """Moves people from the cameras of their crops to that of the picture and poses the body.

    Args:
        params_body: The body that the model's parameters mean.
        body: The body to show.
    """
    camera = output.camera.double().cpu()
    camera = torch.cat([camera[:, :1].clamp(min=_MIN_SCALE), camera[:, 1:]], dim=1)
    box_center, box_size, image_size = (
        value.double() for value in (crop.box_center, crop.box_size, crop.image_size)
    )
    transl = crop_camera_to_full(camera, box_center, box_size, image_size, focal.expand(len(camera)))
    given = output.params
    params = BodyParams(
        global_orient=given.global_orient,
        body_pose=given.body_pose,
        betas=given.betas,
        transl=transl.to(given.betas),
    )
    if body is not params_body:
        params = transfer_params(params, params_body, body)
    return PlacedPeople(params=params, mesh=body(params))


def coco_keypoints(
    output: HMROutput,
    placed: PlacedPeople,
    crop: Crop,
    scores: Float[Tensor, "persons"],
    K: Float[Tensor, "3 3"],
    body: BodyModel,
) -> Float[Tensor, "persons 17 3"] | None:
    """COCO-17 points (x, y, score) in pixels of the picture.

    Read from heat maps where the model has them, else points of the body with the detector's score; None
    when neither has them.
    """
    if output.keypoints is not None and output.keypoints.score.shape[1] == len(COCO17_NAMES):
        return _from_crop_units(output.keypoints, crop)
    if not set(COCO17_NAMES) <= set(body.keypoint_names):
        return None
    rows = [body.keypoint_names.index(name) for name in COCO17_NAMES]
    points = body.keypoints(placed.mesh.vertices)[:, rows].double().cpu()
    confidence = scores.to(points)[:, None, None].expand(-1, len(rows), 1)
    return torch.cat([project(points, K.expand(len(points), 3, 3)), confidence], dim=-1)


def as_persons(
    people: Detections, placed: PlacedPeople, points: Float[Tensor, "persons 17 3"] | None, source: str
) -> tuple[Person, ...]:
    """One record with one frame per person, in the order of detection.

    Raises:
        UnsafeFileError: The model gave numbers that are not finite.
    """
    params, mesh = placed.params, placed.mesh
    assert params.transl is not None
    finite = mesh.vertices.isfinite().all() & mesh.joints.isfinite().all()
    if not bool(finite):
        raise UnsafeFileError(
            f"{source}: the model gave numbers that are not finite; its weights are damaged"
        )

    def row(values: Tensor, index: int) -> np.ndarray:
        return values[index : index + 1].float().cpu().numpy()

    return tuple(
        Person(
            track_id=index,
            frames=np.zeros(1, dtype=np.int64),
            boxes_xyxy=row(people.boxes_xyxy, index),
            scores=row(people.scores, index),
            vertices=row(mesh.vertices, index),
            joints=row(mesh.joints, index),
            global_orient=row(params.global_orient, index),
            body_pose=row(params.body_pose, index),
            betas=row(params.betas, index),
            transl=row(params.transl, index),
            keypoints_2d=None if points is None else row(points, index),
        )
        for index in range(len(people.scores))
    )


def _from_crop_units(keypoints: Keypoints2D, crop: Crop) -> Float[Tensor, "persons points 3"]:
    xy = keypoints.xy.double().cpu() * crop.box_size[:, None, None] + crop.box_center[:, None, :]
    return torch.cat([xy, keypoints.score.double().cpu()[..., None]], dim=-1)


def _join(outputs: list[HMROutput]) -> HMROutput:
    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([part.float() for part in parts])

    points = [output.keypoints for output in outputs if output.keypoints is not None]
    return HMROutput(
        params=BodyParams(
            global_orient=joined(output.params.global_orient for output in outputs),
            body_pose=joined(output.params.body_pose for output in outputs),
            betas=joined(output.params.betas for output in outputs),
        ),
        camera=joined(output.camera for output in outputs),
        keypoints=Keypoints2D(xy=joined(p.xy for p in points), score=joined(p.score for p in points))
        if points
        else None,
    )


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
