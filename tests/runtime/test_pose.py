"""Pipelines for 2D keypoints: models of heat maps and of meshes, scores, doubled people, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import InputError, ResourceError, UnsafeFileError, UsageError
from fasthmr.evaluation.coco import read_results
from fasthmr.geometry.pose_crops import crop_pose
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.io.images import read_image
from fasthmr.models.human_fov import HumanFoV
from fasthmr.models.pose import PoseConfig, PoseModel
from fasthmr.results import PoseClip
from fasthmr.runtime import batch
from fasthmr.runtime.manifest import FILE_NAME
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.types import Detections

BOXES = [[10.0, 5.0, 60.0, 95.0], [80.0, 20.0, 110.0, 70.0], [12.0, 30.0, 70.0, 80.0]]


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)


@pytest.fixture
def pose_model() -> PoseModel:
    torch.manual_seed(0)
    encoder = ViTConfig(dim=32, depth=1, heads=2, image_size=(64, 48))
    head = HeatmapHeadConfig(context_dim=32, kind="classic", deconv_filters=(16,), deconv_kernels=(4,))
    return PoseConfig(encoder=encoder, head=head).build().eval()


def test_the_points_are_those_of_the_model(pose_model: PoseModel, rgb: np.ndarray) -> None:
    clip = Pipeline(pose_model, task="pose")(rgb, boxes=BOXES)
    assert isinstance(clip, PoseClip)
    assert clip.keypoint_names == COCO17_NAMES
    assert clip.image_size == (120, 100) and clip.model == "PoseModel"
    assert set(clip.timings) == {"read", "detect", "crop", "model"}
    expected = pose_model.estimate(crop_pose(rgb, torch.tensor(BOXES), (64, 48))).double()
    found = {tuple(person.boxes_xyxy[0].tolist()): person for person in clip.persons}
    for points, box in zip(expected, BOXES, strict=True):
        np.testing.assert_allclose(found[tuple(box)].keypoints_2d[0], points, atol=1e-3)


def test_people_are_ranked_by_their_keypoints(
    pose_model: PoseModel, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.tensor([0.3, 0.9, 0.1])

    def estimate(crop) -> torch.Tensor:
        points = torch.rand(len(crop.center), 17, 3, generator=torch.Generator().manual_seed(1)) * 50
        points[..., 2] = scores[:, None]
        points[:, 9:, 2] = 0.15  # below what counts
        return points

    def detector(picture: np.ndarray) -> Detections:
        return Detections(boxes_xyxy=torch.tensor(BOXES), scores=torch.tensor([0.9, 0.8, 0.7]))

    monkeypatch.setattr(pose_model, "estimate", estimate)
    clip = Pipeline(pose_model, task="pose", detector=detector)(rgb)
    assert [float(person.scores[0]) for person in clip.persons] == pytest.approx([0.72, 0.27, 0.0])
    assert [person.track_id for person in clip.persons] == [0, 1, 2]
    assert clip.persons[0].boxes_xyxy[0].tolist() == BOXES[1]


def test_people_found_twice_count_once(pose_model: PoseModel, rgb: np.ndarray) -> None:
    clip = Pipeline(pose_model, task="pose")(rgb, boxes=[BOXES[0], BOXES[0], BOXES[1]])
    assert sorted(person.boxes_xyxy[0].tolist() for person in clip.persons) == sorted(BOXES[:2])


def test_batches_of_any_size_agree(pose_model: PoseModel, rgb: np.ndarray) -> None:
    one, many = (Pipeline(pose_model, task="pose", batch_size=size)(rgb, boxes=BOXES) for size in (1, 8))
    for a, b in zip(one.persons, many.persons, strict=True):
        np.testing.assert_allclose(a.keypoints_2d, b.keypoints_2d, atol=1e-4)


def test_nobody(pose_model: PoseModel, rgb: np.ndarray, tmp_path: Path) -> None:
    clip = Pipeline(pose_model, task="pose")(rgb, boxes=[])
    assert clip.persons == ()
    assert json.loads(clip.save(tmp_path / "a.json").read_text()) == []


def test_models_of_meshes_give_keypoints_too(stand_in_model: nn.Module, rgb: np.ndarray) -> None:
    poses = Pipeline(stand_in_model, task="pose")(rgb, boxes=BOXES)
    meshes = Pipeline(stand_in_model)(rgb, boxes=BOXES)
    for pose, mesh in zip(poses.persons, meshes.persons, strict=True):
        np.testing.assert_allclose(pose.keypoints_2d, mesh.keypoints_2d)
        np.testing.assert_allclose(pose.scores, 1)


def test_the_default_model_finds_keypoints(rgb: np.ndarray) -> None:
    clip = Pipeline(task="pose", detector="full")(rgb)
    (person,) = clip.persons
    assert person.keypoints_2d.shape == (1, 17, 3)
    assert len(np.unique(person.keypoints_2d[0, :, 2])) > 10  # scores of the heat maps
    assert 0 < person.scores[0] <= 1


def test_a_folder_gives_one_coco_file(pose_model: PoseModel, make_picture, tmp_path: Path) -> None:
    for name in ("000000000785.jpg", "COCO_val2014_000000000042.jpg", "b.png", "a.png"):
        make_picture(tmp_path / "in" / name, seed=len(name))
    pipeline = Pipeline(pose_model, task="pose", detector="full")
    out = tmp_path / "out"
    steps = pipeline.predict_many([tmp_path / "in"], out)
    next(steps), next(steps)
    steps.close()
    assert not (out / batch.JOINED_KEYPOINTS).exists()
    reports = list(pipeline.predict_many([tmp_path / "in"], out, resume=True))
    assert [report.status for report in reports] == ["skipped", "skipped", "ok", "ok"]
    rows = read_results(out / batch.JOINED_KEYPOINTS)
    ids = {row["file_name"]: row["image_id"] for row in rows}
    assert ids == {"000000000785.jpg": 785, "COCO_val2014_000000000042.jpg": 42, "a.png": 2, "b.png": 3}
    names = {path.name for path in out.iterdir()}
    endings = (".overlay.png", ".keypoints.json", ".npz")
    wanted = {Path(name).stem + end for name in ids for end in endings}
    assert names == wanted | {batch.JOINED_KEYPOINTS, FILE_NAME}
    assert PoseClip.load(out / "b.npz").image_ids.tolist() == [3]
    assert read_image(out / "b.overlay.png").shape == (64, 48, 3)


def test_one_picture_needs_no_joined_file(pose_model: PoseModel, make_picture, tmp_path: Path) -> None:
    picture = make_picture(tmp_path / "7.png")
    list(Pipeline(pose_model, task="pose", detector="full").predict_many([picture], tmp_path / "out"))
    assert not (tmp_path / "out" / batch.JOINED_KEYPOINTS).exists()
    assert read_results(tmp_path / "out" / "7.keypoints.json")[0]["image_id"] == 7


def test_settings_of_the_task_tell_runs_apart(
    stand_in_model: nn.Module, make_picture, tmp_path: Path
) -> None:
    picture = make_picture(tmp_path / "a.png")
    for task in ("mesh", "pose"):
        pipeline = Pipeline(stand_in_model, task=task, detector="full")
        (report,) = pipeline.predict_many([picture], tmp_path / "out", save=("npz",), resume=True)
        assert report.status == "ok"


def test_formats_are_those_of_the_task(pose_model: PoseModel, make_picture, tmp_path: Path) -> None:
    pipeline = Pipeline(pose_model, task="pose", detector="full")
    with pytest.raises(UsageError, match="cannot save 'glb' for the task 'pose'"):
        list(pipeline.predict_many([make_picture(tmp_path / "a.png")], tmp_path / "out", save=("glb",)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"task": "poze"}, "did you mean 'pose'"),
        ({"task": "mesh"}, "'PoseModel' gives 2D keypoints and no mesh; use task 'pose'"),
        ({"task": "pose", "focal": 500.0}, "for which focal mean nothing"),
        ({"task": "pose", "body": "x.npz", "fov_deg": 50.0}, "for which body and fov mean nothing"),
    ],
)
def test_what_does_not_fit(options: dict, expected: str, pose_model: PoseModel) -> None:
    with pytest.raises(UsageError, match=expected):
        Pipeline(pose_model, **options)


def test_presets_are_refused_before_they_are_built() -> None:
    with pytest.raises(UsageError, match="'vitpose_vit_h' gives 2D keypoints"):
        Pipeline("vitpose_vit_h")
    with pytest.raises(UsageError, match="no weights for 'vitpose_vit_s'"):
        Pipeline("vitpose_vit_s", task="pose")
    with pytest.raises(InputError, match=r"no such weight file"):
        Pipeline("missing.ckpt")
    with pytest.raises(InputError, match=r"no such weight file"):
        Pipeline(intrinsics="missing.ckpt")


def test_other_models_fit_no_task(pose_model: PoseModel) -> None:
    network = nn.Module.__new__(HumanFoV)
    nn.Module.__init__(network)
    for task in ("mesh", "pose"):
        with pytest.raises(UsageError, match="gives the field of view"):
            Pipeline(network, task=task)
        with pytest.raises(UsageError, match="encoder without a head"):
            Pipeline(pose_model.encoder, task=task)


def test_other_numbers_of_keypoints() -> None:
    encoder = ViTConfig(dim=32, depth=1, heads=2, image_size=(64, 48))
    head = HeatmapHeadConfig(context_dim=32, keypoints=5, kind="simple")
    model = PoseConfig(encoder=encoder, head=head, flip_pairs=()).build().eval()
    with pytest.raises(UsageError, match="gives 5 keypoints"):
        Pipeline(model, task="pose")


def test_damaged_weights_and_lack_of_memory(
    pose_model: PoseModel, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def estimate(crop) -> torch.Tensor:
        sizes.append(len(crop.center))
        if len(crop.center) > 1:
            raise MemoryError
        return torch.full((1, 17, 3), float("nan"))

    monkeypatch.setattr(pose_model, "estimate", estimate)
    with pytest.raises(UnsafeFileError, match="not finite"):
        Pipeline(pose_model, task="pose", batch_size=4)(rgb, boxes=BOXES)
    assert sizes == [3, 2, 1, 1, 1]

    def never(crop) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(pose_model, "estimate", never)
    with pytest.raises(ResourceError):
        Pipeline(pose_model, task="pose")(rgb, boxes=BOXES)
