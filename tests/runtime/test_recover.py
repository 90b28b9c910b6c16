"""People in a full-perspective camera: placed where they were cropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.data.records import POINT_NAMES
from fasthmr.errors import UsageError
from fasthmr.geometry.cameras import project
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.runtime.place import place_people
from fasthmr.runtime.recover import MeshRecovery, run_model
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import BodyParams, Crop, Detections, HMROutput, Keypoints2D

BODY = load_default_body()
FEW = BODY.restrict(torch.arange(0, BODY.num_vertices, 100))
PARAMS = BodyParams(
    global_orient=torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None, None],
    body_pose=torch.eye(3).expand(1, 23, 3, 3).contiguous(),
    betas=torch.zeros(1, 10),
)


def camera(fx: float, fy: float, cx: float, cy: float) -> PictureCamera:
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return PictureCamera(K=K, source="calib")


@settings(max_examples=15, deadline=None)
@given(
    fx=st.floats(300, 3000),
    squeeze=st.floats(0.7, 1.4),
    principal=st.tuples(st.floats(100, 900), st.floats(100, 600)),
    place=st.tuples(st.floats(-2, 2), st.floats(-1, 1), st.floats(2, 12)),
    box=st.tuples(st.floats(-200, 1200), st.floats(-200, 900), st.floats(60, 900)),
)
def test_a_placed_body_projects_onto_the_pixels_it_was_cropped_from(
    fx: float,
    squeeze: float,
    principal: tuple[float, float],
    place: tuple[float, float, float],
    box: tuple[float, float, float],
) -> None:
    """The true crop camera of a body gives back its place and its pixels, whatever the box and the camera."""
    view = camera(fx, fx * squeeze, *principal)
    transl = torch.tensor([place], dtype=torch.float64)
    expected = project(FEW(PARAMS).vertices.double() + transl[:, None], view.K[None])
    center, side = torch.tensor([box[:2]], dtype=torch.float64), torch.tensor([box[2]], dtype=torch.float64)
    # The definition: 2 f / (b s) is the depth, and the model's origin has the crop coordinates s t / 2.
    scale = 2 * view.focal / (side * transl[:, 2])
    origin = project(transl[:, None], view.K[None])[:, 0]
    shift = (origin - center) / side[:, None] * 2 / scale[:, None]
    output = HMROutput(params=PARAMS, camera=torch.cat([scale[:, None], shift], dim=1).float())
    crop = Crop(
        pixels=torch.zeros(1, 3, 8, 8),
        box_center=center.float(),
        box_size=side.float(),
        image_size=torch.tensor([[1000.0, 700.0]]),
    )
    if float(scale) < 0.06:
        return  # farther than any model sees people; clamped
    placed = place_people(output, crop, view, FEW, FEW)
    assert placed.params.transl is not None
    torch.testing.assert_close(placed.params.transl.double(), transl, rtol=2e-4, atol=2e-3)
    pixels = project(placed.mesh.vertices.double(), view.K[None])
    assert float((pixels - expected).abs().max()) < 1e-3 * float(view.focal)


class Conditioned(nn.Module):
    """Takes the camera and remembers what it was told."""

    crop_size, crop_aspect, crop_antialias, takes_camera = 32, (1, 1), False, True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.told: list[torch.Tensor] = []

    def forward(self, pixels: torch.Tensor, bbox_info: torch.Tensor) -> HMROutput:
        self.told.append(bbox_info)
        return self.model(pixels)


def test_models_that_take_the_camera_are_told_where_the_crops_lie(stand_in_model: nn.Module) -> None:
    model = Conditioned(stand_in_model)
    rgb = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    boxes = [[10.0, 5, 60, 95], [80, 20, 110, 70], [20, 30, 70, 80]]
    clip = Pipeline(model, focal=200.0, batch_size=2)(rgb, boxes=boxes)
    told = torch.cat(model.told)
    assert [len(part) for part in model.told] == [2, 1]
    sides = torch.tensor([90.0, 50.0, 50.0])  # the longer side: no growth to 192:256
    centers = torch.tensor([[35.0, 50.0], [95.0, 45.0], [45.0, 55.0]])
    expected = torch.cat([centers - torch.tensor([60.0, 50.0]), sides[:, None]], dim=1) / 200
    torch.testing.assert_close(told, expected)
    assert clip.camera_source == "focal"
    np.testing.assert_array_equal(clip.intrinsics[0], [[200, 0, 60], [0, 200, 50], [0, 0, 1]])


def test_the_angle_of_a_crop_counts_in_the_focal_length_of_its_axis() -> None:
    told = []

    class Told(nn.Module):
        takes_camera = True

        def forward(self, pixels: torch.Tensor, bbox_info: torch.Tensor) -> HMROutput:
            told.append(bbox_info)
            return HMROutput(params=PARAMS, camera=torch.ones(1, 3))

    crop = Crop(
        pixels=torch.zeros(1, 3, 8, 8),
        box_center=torch.tensor([[150.0, 80.0]]),
        box_size=torch.tensor([40.0]),
        image_size=torch.tensor([[200.0, 100.0]]),
    )
    run_model(Told(), crop, camera(400, 100, 90, 60), 4, torch.device("cpu"))
    torch.testing.assert_close(told[0], torch.tensor([[60 / 400, 20 / 100, 40 / 200]]))


def test_models_that_protect_the_person_get_the_ellipse_in_the_box() -> None:
    told = []

    class Told(nn.Module):
        takes_mask = True

        def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> HMROutput:
            told.append(mask)
            return HMROutput(params=PARAMS, camera=torch.ones(1, 3))

    crop = Crop(
        pixels=torch.zeros(1, 3, 40, 40),
        box_center=torch.tensor([[150.0, 80.0]]),
        box_size=torch.tensor([80.0]),
        image_size=torch.tensor([[200.0, 100.0]]),
    )
    boxes = torch.tensor([[140.0, 40.0, 160.0, 120.0]])  # the middle quarter of the columns
    run_model(Told(), crop, camera(400, 400, 90, 60), 4, torch.device("cpu"), boxes_xyxy=boxes)
    mask = told[0][0]
    assert mask.shape == (40, 40) and mask[20, 20] == 1 and mask[2, 20] == 1
    assert mask[:, :15].sum() == 0 and mask[20, 25:].sum() == 0


def test_the_own_network_of_a_model_is_asked_once_per_picture(stand_in_model: nn.Module) -> None:
    class Network(nn.Module):
        calls = 0

        def estimate(self, rgb: np.ndarray) -> float:
            self.calls += 1
            return 321.0

    model = Conditioned(stand_in_model)
    model.intrinsics = Network()
    rgb = np.zeros((100, 120, 3), np.uint8)
    pipeline = Pipeline(model, batch_size=1)
    clip = pipeline(rgb, boxes=[[10.0, 5, 60, 95], [80, 20, 110, 70], [20, 30, 70, 80]])
    assert (clip.camera_source, clip.intrinsics[0, 0, 0]) == ("network", 321)
    assert model.intrinsics.calls == 1
    frames = [rgb] * 40
    track = pipeline.cameras.estimate_for_track(frames, source="clip")
    clips = [pipeline.recover(frame, boxes=[[10.0, 5, 60, 95]], camera=track) for frame in frames[:3]]
    assert {clip.intrinsics[0, 0, 0] for clip in clips} == {321}
    assert model.intrinsics.calls == 1 + 5


def test_points_of_the_body_carry_the_scores_of_heat_maps(stand_in_model: nn.Module) -> None:
    class WithPoints(nn.Module):
        crop_size = 64

        def forward(self, pixels: torch.Tensor) -> HMROutput:
            output = stand_in_model(pixels)
            scores = torch.arange(len(POINT_NAMES)).float().expand(len(pixels), -1) / 100
            points = Keypoints2D(xy=torch.zeros(*scores.shape, 2), score=scores)
            return HMROutput(params=output.params, camera=output.camera, keypoints=points)

    def points(model: nn.Module) -> np.ndarray:
        recovery = MeshRecovery(
            model=model, params_body=BODY, body=BODY, batch_size=4, device=torch.device("cpu")
        )
        people = Detections(boxes_xyxy=torch.tensor([[10.0, 5, 60, 95]]), scores=torch.tensor([0.5]))
        rgb = np.zeros((100, 120, 3), np.uint8)
        return recovery.keypoints(rgb, people, camera(500, 500, 60, 50), Stopwatch())[0].detach().numpy()

    plain, scored = points(stand_in_model), points(WithPoints())
    np.testing.assert_allclose(plain[:, :2], scored[:, :2])
    np.testing.assert_allclose(plain[:, 2], 0.5)
    np.testing.assert_allclose(scored[:, 2], [POINT_NAMES.index(name) / 100 for name in COCO17_NAMES])


def test_without_points_there_are_no_keypoints(stand_in_model: nn.Module) -> None:
    bare = load_default_body()
    bare.keypoint_names = ()
    rgb = np.zeros((100, 120, 3), np.uint8)
    assert Pipeline(stand_in_model, body=bare)(rgb, boxes=[[0, 0, 50, 90]]).persons[0].keypoints_2d is None
    with pytest.raises(UsageError, match="neither this model nor the body"):
        Pipeline(stand_in_model, task="pose", body=bare)(rgb, boxes=[[0, 0, 50, 90]])
