"""From the cameras of crops to that of their picture."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.lbs import BodyModel
from fasthmr.body.transfer import fit_pose, transfer_params
from fasthmr.geometry.cameras import bbox_info, crop_camera_to_full
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.types import BodyMesh, BodyParams, Crop, HMROutput

_MIN_SCALE = 0.05  # of the crop camera; a smaller or negative one puts the person out of reach
_POSED_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class PlacedPeople:
    """People in the camera frame of their picture, metres."""

    params: BodyParams
    mesh: BodyMesh


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


def place_in_camera(crop: Crop, camera: PictureCamera) -> Float[Tensor, "persons 3"]:
    """Place of the crops in the camera; angles across and down each count in their own focal length."""
    count = len(crop.box_size)
    principal, focal = camera.principal.float().expand(count, 2), camera.focal.float().expand(count)
    center = principal + (crop.box_center - principal) * _pixel_shape(camera).float()
    return bbox_info(center, crop.box_size, principal, focal)


def _pixel_shape(camera: PictureCamera) -> Float[Tensor, "2"]:
    """Mean focal length over that across and that down; (1, 1) for square pixels."""
    return camera.focal / camera.K.diagonal()[:2]
