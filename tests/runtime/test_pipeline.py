from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fasthmr
from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.skeletons import COCO17_NAMES, SMPL_JOINT_NAMES
from fasthmr.errors import InputError, ResourceError, UnsafeFileError, UsageError
from fasthmr.geometry.cameras import project
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.types import Detections, HMROutput, Keypoints2D

BOXES = [[10.0, 5.0, 60.0, 95.0], [80.0, 20.0, 110.0, 70.0], [20.0, 30.0, 70.0, 80.0]]


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)


def test_the_public_name_is_this_class() -> None:
    assert fasthmr.Pipeline is Pipeline


def test_a_clip_describes_the_scene(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    clip = Pipeline(stand_in_model, detector="full")(rgb, boxes=BOXES)
    assert len(clip.persons) == 3
    assert clip.image_size == (120, 100)
    assert clip.joint_names == SMPL_JOINT_NAMES
    assert clip.num_frames == 1
    assert clip.model == "StandIn"
    assert set(clip.timings) == {"read", "detect", "camera", "crop", "model", "body"}
    person = clip.persons[1]
    assert person.vertices.shape == (1, *clip.lbs_weights.shape[:1], 3)
    assert person.joints.shape == (1, 24, 3)
    assert person.frames.tolist() == [0]
    assert person.boxes_xyxy.tolist() == [BOXES[1]]


def test_everybody_stands_in_the_box_under_one_camera(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    clip = Pipeline(stand_in_model)(rgb, boxes=BOXES)
    K = torch.from_numpy(clip.intrinsics[0])
    np.testing.assert_allclose(clip.intrinsics[0][:2, 2], [60, 50])
    assert clip.intrinsics[0][0, 0] == pytest.approx(5000 / 256 * 120)
    for person, box in zip(clip.persons, BOXES, strict=True):
        points = project(torch.from_numpy(person.vertices[0]).double(), K)
        low, high = points.amin(0), points.amax(0)
        middle = (low + high) / 2
        assert abs(float(middle[0]) - (box[0] + box[2]) / 2) < 2
        side = max(box[3] - box[1], (box[2] - box[0]) * 4 / 3)
        # 0.9 of half a side for a metre.
        tall = float(np.ptp(person.vertices[0, :, 1]))
        assert float(high[1] - low[1]) == pytest.approx(0.45 * side * tall, rel=0.02)
        head, feet = person.joints[0, 15], person.joints[0, 10]
        assert head[1] < feet[1], "the picture's y axis points down"


def test_focal_moves_people_along_their_line_of_sight_only(
    stand_in_model: nn.Module, rgb: np.ndarray
) -> None:
    far = Pipeline(stand_in_model)(rgb, boxes=BOXES).persons[0]
    near = Pipeline(stand_in_model, focal=100.0)(rgb, boxes=BOXES).persons[0]
    wide = Pipeline(stand_in_model, fov_deg=90.0)(rgb, boxes=BOXES)
    assert wide.intrinsics[0][0, 0] == pytest.approx(60)
    np.testing.assert_allclose(far.transl[0, :2], near.transl[0, :2], rtol=1e-5)
    assert far.transl[0, 2] == pytest.approx(near.transl[0, 2] * 5000 / 256 * 1.2, rel=1e-5)


def test_keypoints_of_the_body_and_of_heat_maps(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    person = Pipeline(stand_in_model)(rgb, boxes=BOXES[:1]).persons[0]
    assert person.keypoints_2d is not None
    nose, ankle = person.keypoints_2d[0, 0], person.keypoints_2d[0, COCO17_NAMES.index("left_ankle")]
    assert nose[1] < ankle[1]
    assert nose[2] == 1

    class WithPoints(nn.Module):
        crop_size = 64

        def forward(self, pixels: torch.Tensor) -> HMROutput:
            output = stand_in_model(pixels)
            points = Keypoints2D(
                xy=torch.zeros(len(pixels), 17, 2), score=torch.full((len(pixels), 17), 0.25)
            )
            return HMROutput(params=output.params, camera=output.camera, keypoints=points)

    person = Pipeline(WithPoints())(rgb, boxes=BOXES[:1]).persons[0]
    assert person.keypoints_2d is not None
    np.testing.assert_allclose(person.keypoints_2d[0], np.tile([35, 50, 0.25], (17, 1)))


def test_batches_of_any_size_agree(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    together = Pipeline(stand_in_model, batch_size=8)(rgb, boxes=BOXES)
    singly = Pipeline(stand_in_model, batch_size=1)(rgb, boxes=BOXES)
    for a, b in zip(together.persons, singly.persons, strict=True):
        np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-5)
    assert stand_in_model.batches == [3, 1, 1, 1]


def test_nobody_is_a_result(stand_in_model: nn.Module, rgb: np.ndarray, tmp_path: Path) -> None:
    def nobody(picture: np.ndarray) -> Detections:
        return Detections(boxes_xyxy=torch.zeros(0, 4), scores=torch.zeros(0))

    clip = Pipeline(stand_in_model, detector=nobody)(rgb)
    assert clip.persons == ()
    for suffix in ("npz", "glb", "obj", "json"):
        assert clip.save(tmp_path / f"nobody.{suffix}").stat().st_size > 0
    assert stand_in_model.batches == []


def test_the_best_detections_are_kept(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    def three(picture: np.ndarray) -> Detections:
        return Detections(boxes_xyxy=torch.tensor(BOXES), scores=torch.tensor([0.9, 0.8, 0.7]))

    clip = Pipeline(stand_in_model, detector=three, max_persons=2)(rgb)
    assert [float(person.scores[0]) for person in clip.persons] == pytest.approx([0.9, 0.8])


def test_boxes_file(stand_in_model: nn.Module, rgb: np.ndarray, make_picture, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"a.png": [[0, 0, 40, 60]]}')
    pipeline = Pipeline(stand_in_model, boxes=tmp_path / "b.json")
    clip = pipeline(make_picture(tmp_path / "a.png"))
    assert clip.persons[0].boxes_xyxy.tolist() == [[0, 0, 40, 60]]
    assert clip.source == "a.png"
    with pytest.raises(InputError, match=r"b\.png: no boxes"):
        pipeline(make_picture(tmp_path / "b.png"))
    with pytest.raises(UsageError, match="boxes file needs pictures with a name"):
        pipeline(rgb)


@pytest.mark.parametrize(
    "boxes", [[[1, 2, 3]], [["a", "b", "c", "d"]], [1, 2, 3, 4], [[500, 0, 600, 10]], [[0, 0, 0, 0]]]
)
def test_bad_boxes_are_refused(boxes: list, stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"box"):
        Pipeline(stand_in_model)(rgb, boxes=boxes)


def test_an_empty_list_of_boxes_is_nobody(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    assert Pipeline(stand_in_model)(rgb, boxes=[]).persons == ()


def test_bad_options_are_refused(stand_in_model: nn.Module) -> None:
    with pytest.raises(UsageError, match="not both"):
        Pipeline(stand_in_model, focal=1.0, fov_deg=1.0)
    with pytest.raises(UsageError, match="positive"):
        Pipeline(stand_in_model, focal=-1.0)
    with pytest.raises(UsageError, match="between 0 and 180"):
        Pipeline(stand_in_model, fov_deg=180.0)
    with pytest.raises(UsageError, match="at least 1"):
        Pipeline(stand_in_model, max_persons=0)
    with pytest.raises(UsageError, match="not available"):
        Pipeline(stand_in_model, device="abacus")
    with pytest.raises(UsageError, match="hand"):
        Pipeline(stand_in_model, body=load_default_hand())
    with pytest.raises(InputError, match=r"missing\.npz"):
        Pipeline(stand_in_model, body="missing.npz")


def test_arrays_that_are_no_pictures(stand_in_model: nn.Module) -> None:
    pipeline = Pipeline(stand_in_model, detector="full")
    for shape, dtype in [
        ((4, 4), np.uint8),
        ((4, 4, 4), np.uint8),
        ((4, 4, 3), np.float32),
        ((0, 4, 3), np.uint8),
    ]:
        with pytest.raises(InputError, match="needed: uint8 RGB"):
            pipeline(np.zeros(shape, dtype=dtype))
    assert len(pipeline(np.zeros((1, 500, 3), dtype=np.uint8)).persons) == 1


class _Hungry(nn.Module):
    """Runs out of memory on batches above a limit."""

    crop_size = 64

    def __init__(self, model: nn.Module, limit: int, error: Exception) -> None:
        super().__init__()
        self.model, self.limit, self.error = model, limit, error

    def forward(self, pixels: torch.Tensor) -> HMROutput:
        if len(pixels) > self.limit:
            raise self.error
        return self.model(pixels)


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_r11_batches_are_halved_when_memory_runs_out(
    error: Exception, stand_in_model: nn.Module, rgb: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [[10.0, 10, 40 + i, 60 + i] for i in range(7)]
    whole = Pipeline(stand_in_model)(rgb, boxes=boxes)
    halved = Pipeline(_Hungry(stand_in_model, 3, error))(rgb, boxes=boxes)
    for a, b in zip(whole.persons, halved.persons, strict=True):
        np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-5)
    assert len(caplog.records) == 3  # 16, 8, 4
    with pytest.raises(ResourceError):
        Pipeline(_Hungry(stand_in_model, 0, error))(rgb, boxes=boxes)


def test_other_errors_of_the_model_are_not_hidden(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Pipeline(_Hungry(stand_in_model, 0, RuntimeError("shapes differ")))(rgb, boxes=BOXES)


def test_a_model_that_gives_nan_is_told(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    with torch.no_grad():
        stand_in_model.gain.fill_(float("nan"))
    with pytest.raises(UnsafeFileError, match="not finite"):
        Pipeline(stand_in_model)(rgb, boxes=BOXES)


def test_r10_many_people(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    boxes = [[float(i % 60), float(i % 40), i % 60 + 30.0, i % 40 + 50.0] for i in range(100)]
    clip = Pipeline(stand_in_model)(rgb, boxes=boxes)
    assert [person.track_id for person in clip.persons] == list(range(100))
    assert [person.boxes_xyxy[0].tolist() for person in clip.persons] == boxes


def test_a_body_of_ones_own_is_shown(stand_in_model: nn.Module, rgb: np.ndarray, tmp_path: Path) -> None:
    free = load_default_body()
    own = free.restrict(torch.arange(free.num_vertices // 2))
    own.name = "half"
    clip = Pipeline(stand_in_model, body=own)(rgb, boxes=BOXES[:1])
    whole = Pipeline(stand_in_model)(rgb, boxes=BOXES[:1])
    assert clip.body == "half"
    np.testing.assert_allclose(
        clip.persons[0].vertices, whole.persons[0].vertices[:, : own.num_vertices], atol=2e-3
    )


def test_parameters_of_smpl_models_are_not_translated(
    stand_in_model: nn.Module, rgb: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in_model.trained_body = "smpl"
    own = load_default_body()
    clip = Pipeline(stand_in_model, body=own)(rgb, boxes=BOXES[:1])
    assert not caplog.records
    stand_in_model.trained_body = "free"
    free = Pipeline(stand_in_model)(rgb, boxes=BOXES[:1])
    np.testing.assert_array_equal(clip.persons[0].betas, free.persons[0].betas)
    stand_in_model.trained_body = "smpl"
    Pipeline(stand_in_model)
    assert "trained on SMPL" in caplog.text
