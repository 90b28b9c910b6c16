"""The steps between crops and people: network, place in the camera of the picture, records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.lbs import BodyModel
from fasthmr.errors import ResourceError, UnsafeFileError
from fasthmr.geometry.crops import crop_pictures
from fasthmr.reduction.mask_tokens import ellipse_in_crop
from fasthmr.results import Person, Side
from fasthmr.runtime.coco_points import coco_keypoints, no_keypoints
from fasthmr.runtime.intrinsics import Picture, PictureCamera
from fasthmr.runtime.left_hands import Left, joints_of_sides, mirror_back, mirror_crops
from fasthmr.runtime.place import PlacedPeople, as_shown, place_in_camera, place_people
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import BodyMesh, BodyParams, Crop, Detections, HMROutput, Keypoints2D

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeshRecovery:
    """A model of meshes, and the bodies that it and the user mean.

    Attributes:
        params_body: The body that the model's parameters mean.
        body: The body to show.
        batch_size: Crops that pass the model at once.
        left_body: Mirror image of `body`, for models of hands.
    """

    model: nn.Module
    params_body: BodyModel
    body: BodyModel
    batch_size: int
    device: torch.device
    left_body: BodyModel | None = None

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

    def cut(self, rgb: Picture, boxes_xyxy: Float[Tensor, "persons 4"], left: Left | None = None) -> Crop:
        """What the model wants to see of a picture: left hands in a mirror."""
        crop = crop_pictures(
            rgb,
            grown(boxes_xyxy, getattr(self.model, "crop_margin", 1.0)),
            int(getattr(self.model, "crop_size", 256)),
            aspect=getattr(self.model, "crop_aspect", (192, 256)),
            antialias=getattr(self.model, "crop_antialias", True),
        )
        return crop if left is None else mirror_crops(crop, left)

    def run(
        self,
        crop: Crop,
        boxes_xyxy: Float[Tensor, "persons 4"],
        camera: PictureCamera,
        left: Left | None = None,
    ) -> HMROutput:
        """The model on crops that were cut for it, of one picture or several that share their camera.

        Raises:
            ResourceError: Memory is used up even with one person at a time.
        """
        output = run_model(self.model, crop, camera, self.batch_size, self.device, boxes_xyxy=boxes_xyxy)
        return output if left is None else mirror_back(output, left)

    def pose(self, params: BodyParams) -> BodyMesh:
        """The body to show, posed by parameters of the model's body."""
        return self.body(as_shown(params, self.params_body, self.body))

    def _place(
        self, rgb: Picture, people: Detections, camera: PictureCamera, watch: Stopwatch
    ) -> tuple[PlacedPeople, Float[Tensor, "persons 17 3"] | None]:
        with watch("crop"):
            crop = self.cut(rgb, people.boxes_xyxy, people.left)
        with watch("model"):
            output = self.run(crop, people.boxes_xyxy, camera, people.left)
        with watch("body"):
            placed = place_people(output, crop, camera, self.params_body, self.body)
            if people.left is not None and self.left_body is not None:
                joints = joints_of_sides(
                    placed.mesh.joints, self.left_body.joints(placed.params), people.left
                )
                placed = replace(placed, mesh=BodyMesh(vertices=placed.mesh.vertices, joints=joints))
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
    given = [crop.pixels, place_in_camera(crop, camera)] if takes_camera(model) else [crop.pixels]
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
            side=None if people.left is None else side_of(bool(people.left[index])),
        )
        for index in range(len(people.scores))
    )


def side_of(left: bool) -> Side:
    """The side of a hand by its name."""
    return "left" if left else "right"


def not_finite(source: str) -> UnsafeFileError:
    """What is wrong where a model gives infinite numbers or none."""
    return UnsafeFileError(f"{source}: the model gave numbers that are not finite; its weights are damaged")


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
