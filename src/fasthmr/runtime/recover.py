"""The steps between crops and people: network, place in the camera of the picture, records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.body.transfer import fit_pose, transfer_params
from fasthmr.data.records import POINT_NAMES
from fasthmr.errors import ResourceError, UnsafeFileError, UsageError
from fasthmr.geometry.cameras import bbox_info, crop_camera_to_full, project
from fasthmr.geometry.crops import crop_pictures
from fasthmr.reduction.mask_tokens import ellipse_in_crop
from fasthmr.results import Person
from fasthmr.runtime.intrinsics import Picture, PictureCamera
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import BodyMesh, BodyParams, Crop, Detections, HMROutput, Keypoints2D

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_COCO17_IN_POINTS = [POINT_NAMES.index(name) for name in COCO17_NAMES]
_MIN_SCALE = 0.05  # of the crop camera; a smaller or negative one puts the person out of reach
_POSED_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class PlacedPeople:
    """People in the camera frame of their picture, metres."""

    params: BodyParams
    mesh: BodyMesh


@dataclass(frozen=True, kw_only=True)
class MeshRecovery:
    """A model of meshes, and the bodies that it and the user mean.

    Attributes:
        params_body: The body that the model's parameters mean.
        body: The body to show.
        batch_size: Crops that pass the model at once.
    """

    model: nn.Module
    params_body: BodyModel
    body: BodyModel
    batch_size: int
    device: torch.device

    @property
    def fits_pose(self) -> bool:
        """Whether pose and shape are fitted to vertices that the model places."""
        return bool(getattr(self.model, "fits_pose", False))

    def persons(
        self, rgb: Picture, people: Detections, camera: PictureCamera, watch: Stopwatch, source: str
    ) -> tuple[Person, ...]:
        """A body for every detection; at least one.

        Raises:
            ResourceError: Memory is used up even with one person at a time.
            UnsafeFileError: The model gave numbers that are not finite.
        """
        placed, points = self._place(rgb, people, camera, watch)
        with watch("body"):
            return as_persons(people, placed, points, source)

    def keypoints(
        self, rgb: Picture, people: Detections, camera: PictureCamera, watch: Stopwatch
    ) -> Float[Tensor, "persons 17 3"]:
        """COCO-17 points (x, y in pixels, score) of every detection, see `coco_keypoints`; at least one.

        Raises:
            ResourceError: Memory is used up even with one person at a time.
            UsageError: Neither the model nor the body has such points.
        """
        _, points = self._place(rgb, people, camera, watch)
        if points is None:
            raise no_keypoints(self.body.name)
        return points

    def cut(self, rgb: Picture, boxes_xyxy: Float[Tensor, "persons 4"]) -> Crop:
        """What the model wants to see of a picture."""
        return crop_pictures(
            rgb,
            grown(boxes_xyxy, getattr(self.model, "crop_margin", 1.0)),
            int(getattr(self.model, "crop_size", 256)),
            aspect=getattr(self.model, "crop_aspect", (192, 256)),
            antialias=getattr(self.model, "crop_antialias", True),
        )

    def run(self, crop: Crop, boxes_xyxy: Float[Tensor, "persons 4"], camera: PictureCamera) -> HMROutput:
        """The model on crops, of one picture or several that share their camera.

        Raises:
            ResourceError: Memory is used up even with one person at a time.
        """
        return run_model(self.model, crop, camera, self.batch_size, self.device, boxes_xyxy=boxes_xyxy)

    def pose(self, params: BodyParams) -> BodyMesh:
        """The body to show, posed by parameters of the model's body."""
        return self.body(as_shown(params, self.params_body, self.body))

    def _place(
        self, rgb: Picture, people: Detections, camera: PictureCamera, watch: Stopwatch
    ) -> tuple[PlacedPeople, Float[Tensor, "persons 17 3"] | None]:
        with watch("crop"):
            crop = self.cut(rgb, people.boxes_xyxy)
        with watch("model"):
            output = self.run(crop, people.boxes_xyxy, camera)
        with watch("body"):
            placed = place_people(output, crop, camera, self.params_body, self.body)
            return placed, coco_keypoints(output, placed, crop, people.scores, camera, self.body)


def run_model(
    model: nn.Module,
    crop: Crop,
    camera: PictureCamera,
    batch_size: int,
    device: torch.device,
    *,
    boxes_xyxy: Float[Tensor, "persons 4"] | None = None,
) -> HMROutput:
    """The model on all crops, see `in_batches`; with the place of the crops where it takes the camera.

    Args:
        boxes_xyxy: What was detected; a model that merges tokens around the person protects its ellipse.
    """
    given = [crop.pixels, _bbox_info(crop, camera)] if takes_camera(model) else [crop.pixels]
    masks = None
    if boxes_xyxy is not None and getattr(model, "takes_mask", False):
        size = crop.pixels.shape[-1]
        masks = ellipse_in_crop(boxes_xyxy.cpu(), crop.box_center.cpu(), crop.box_size.cpu(), size).float()

    def run(some: slice) -> HMROutput:
        inputs = [tensor[some].to(device) for tensor in given]
        return model(*inputs) if masks is None else model(*inputs, mask=masks[some].to(device))

    return _join(in_batches(run, len(crop.pixels), batch_size))


def in_batches(run: Callable[[slice], Result], count: int, batch_size: int) -> list[Result]:
    """Results of `run` for `batch_size` items at once; half as many after each time that memory runs out.

    Raises:
        ResourceError: Memory is used up even with one item at a time.
    """
    outputs: list[Result] = []
    done = 0
    while done < count:
        try:
            outputs.append(run(slice(done, done + batch_size)))
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
    return outputs


def grown(boxes_xyxy: Float[Tensor, "persons 4"], margin: float) -> Float[Tensor, "persons 4"]:
    """Boxes with sides so many times as long."""
    more = (margin - 1) / 2 * (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])
    return (
        boxes_xyxy if margin == 1 else torch.cat([boxes_xyxy[:, :2] - more, boxes_xyxy[:, 2:] + more], dim=1)
    )


def takes_camera(model: nn.Module) -> bool:
    """Whether the model is conditioned on where the crop lies in its camera, as CameraHMR is."""
    return bool(getattr(model, "takes_camera", False))


def place_people(
    output: HMROutput, crop: Crop, camera: PictureCamera, params_body: BodyModel, body: BodyModel
) -> PlacedPeople:
    """Moves people from the cameras of their crops to that of the picture and poses the body.

    Vertices that the model places itself are taken as they are, where they are those of the body to show.

    Args:
        params_body: As for `place_params`.
        body: The body to show.
    """
    placed = place_params(output, crop, camera, params_body)
    params = as_shown(placed, params_body, body)
    if output.vertices is None or body is not params_body:
        return PlacedPeople(params=params, mesh=_posed(body, params))
    assert placed.transl is not None and output.params.transl is not None
    vertices = output.vertices + (placed.transl - output.params.transl)[:, None]
    return PlacedPeople(params=params, mesh=BodyMesh(vertices=vertices, joints=body.joints(params)))


def _posed(body: BodyModel, params: BodyParams) -> BodyMesh:
    """All people; skinning needs several times the memory of its result, so some at once."""
    parts = [body(part) for part in in_pieces(params, _POSED_AT_ONCE)]
    return BodyMesh(
        vertices=torch.cat([part.vertices for part in parts]),
        joints=torch.cat([part.joints for part in parts]),
    )


def in_pieces(params: BodyParams, size: int) -> list[BodyParams]:
    """Parameters of `size` bodies at most in each; with `transl`."""
    split = {field.name: getattr(params, field.name).split(size) for field in fields(params)}
    return [BodyParams(**dict(zip(split, piece, strict=True))) for piece in zip(*split.values(), strict=True)]


def as_shown(params: BodyParams, params_body: BodyModel, body: BodyModel) -> BodyParams:
    """Parameters of the model's body as those of the body to show."""
    return params if body is params_body else transfer_params(params, params_body, body)


def place_params(output: HMROutput, crop: Crop, camera: PictureCamera, params_body: BodyModel) -> BodyParams:
    """Moves people from the cameras of their crops to that of the picture.

    Where pixels are not square, the focal length is the geometric mean of both and the model's origin is put
    where the crop camera saw it.

    Args:
        params_body: The body that the model's parameters mean, or one of the same family: joints that the
            model does not give stay at rest, and shape coefficients that the body lacks are left out.
    """
    scale_and_shift = output.camera.double().cpu()
    scale_and_shift = torch.cat([scale_and_shift[:, :1].clamp(min=_MIN_SCALE), scale_and_shift[:, 1:]], dim=1)
    box_center, box_size, image_size = (
        value.double() for value in (crop.box_center, crop.box_size, crop.image_size)
    )
    count = len(scale_and_shift)
    transl = crop_camera_to_full(
        scale_and_shift,
        box_center,
        box_size,
        image_size,
        camera.focal.expand(count),
        camera.principal.expand(count, 2),
    )
    transl[:, :2] *= _pixel_shape(camera)
    given = output.params
    return BodyParams(
        global_orient=given.global_orient,
        body_pose=fit_pose(given.body_pose, params_body),
        betas=given.betas[:, : params_body.num_betas],
        transl=transl.to(given.betas) if given.transl is None else transl.to(given.betas) + given.transl,
    )


def coco_keypoints(
    output: HMROutput,
    placed: PlacedPeople,
    crop: Crop,
    scores: Float[Tensor, "persons"],
    camera: PictureCamera,
    body: BodyModel,
) -> Float[Tensor, "persons 17 3"] | None:
    """COCO-17 points (x, y, score) in pixels of the picture.

    Read from heat maps where the model has those of COCO. Else points of the body, with the scores of the
    model's heat maps of `POINT_NAMES`, or the detector's where there are none; None for a body without them.
    """
    measured = measured_points(output, crop)
    if measured is not None:
        return measured
    if not set(COCO17_NAMES) <= set(body.keypoint_names):
        return None
    rows = [body.keypoint_names.index(name) for name in COCO17_NAMES]
    points = body.keypoints(placed.mesh.vertices)[:, rows].double().cpu()
    confidence = coco_scores(output)
    if confidence is None:
        confidence = scores.to(points)[:, None].expand(-1, len(rows))
    xy = project(points, camera.K.expand(len(points), 3, 3))
    return torch.cat([xy, confidence[..., None]], dim=-1)


def measured_points(output: HMROutput, crop: Crop) -> Float[Tensor, "persons 17 3"] | None:
    """COCO-17 points (x, y in pixels, score) of heat maps, where the model has those."""
    heat = output.keypoints
    if heat is None or heat.score.shape[1] != len(COCO17_NAMES):
        return None
    xy = heat.xy.double().cpu() * crop.box_size[:, None, None] + crop.box_center[:, None, :]
    return torch.cat([xy, heat.score.double().cpu()[..., None]], dim=-1)


def coco_scores(output: HMROutput) -> Float[Tensor, "persons 17"] | None:
    """Scores of COCO's points in the heat maps of `POINT_NAMES`, where the model has those."""
    heat = output.keypoints
    if heat is None or heat.score.shape[1] != len(POINT_NAMES):
        return None
    return heat.score[:, _COCO17_IN_POINTS].double().cpu()


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
        raise not_finite(source)

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


def not_finite(source: str) -> UnsafeFileError:
    """What is wrong where a model gives infinite numbers or none."""
    return UnsafeFileError(f"{source}: the model gave numbers that are not finite; its weights are damaged")


def no_keypoints(body: str) -> UsageError:
    """What is wrong where COCO's points are asked for."""
    return UsageError(
        f"neither this model nor the body '{body}' has COCO's keypoints; "
        "use another model or leave out the body"
    )


def _bbox_info(crop: Crop, camera: PictureCamera) -> Float[Tensor, "persons 3"]:
    """Place of the crops in the camera; angles across and down each count in their own focal length."""
    count = len(crop.box_size)
    principal, focal = camera.principal.float().expand(count, 2), camera.focal.float().expand(count)
    center = principal + (crop.box_center - principal) * _pixel_shape(camera).float()
    return bbox_info(center, crop.box_size, principal, focal)


def _pixel_shape(camera: PictureCamera) -> Float[Tensor, "2"]:
    """Mean focal length over that across and that down; (1, 1) for square pixels."""
    return camera.focal / camera.K.diagonal()[:2]


def _join(outputs: list[HMROutput]) -> HMROutput:
    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([part.float() for part in parts])

    points = [output.keypoints for output in outputs if output.keypoints is not None]
    features = [output.features for output in outputs if output.features is not None]
    vertices = [output.vertices for output in outputs if output.vertices is not None]
    places = [output.params.transl for output in outputs if output.params.transl is not None]
    return HMROutput(
        params=BodyParams(
            global_orient=joined(output.params.global_orient for output in outputs),
            body_pose=joined(output.params.body_pose for output in outputs),
            betas=joined(output.params.betas for output in outputs),
            transl=joined(places) if places else None,
        ),
        camera=joined(output.camera for output in outputs),
        keypoints=Keypoints2D(xy=joined(p.xy for p in points), score=joined(p.score for p in points))
        if points
        else None,
        features=joined(features) if features else None,
        vertices=joined(vertices) if vertices else None,
    )


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
