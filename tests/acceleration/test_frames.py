from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fasthmr.acceleration.frames import load_frames
from fasthmr.acceleration.parts import ModelParts
from fasthmr.errors import InputError, UsageError
from fasthmr.io.images import write_image
from fasthmr.io.video import VideoWriter
from fasthmr.reduction.mask_tokens import ellipse_in_crop
from fasthmr.types import Detections

from .conftest import RECORDS


@pytest.fixture(scope="module")
def parts(model) -> ModelParts:
    return ModelParts.of(model)


def test_records_come_with_masks_and_truth(parts, records):
    frames = load_frames(records, parts)
    assert len(frames) == RECORDS and frames.pictures.shape[1:] == (3, 64, 48)
    assert frames.joints is not None and frames.masks is not None
    assert 0.1 < frames.masks.float().mean() < 0.5
    assert load_frames(records, parts, labels="none").joints is None
    assert load_frames(records, parts, masks="none").masks is None
    assert load_frames(records, parts, masks="true").masks is not None
    ellipse = load_frames(records, parts, masks="ellipse").masks
    assert ellipse is not None and (ellipse & frames.masks).sum() > 0.7 * ellipse.sum()
    assert len(load_frames(records, parts, limit=7)) == 7
    with pytest.raises(UsageError, match="carry their own"):
        load_frames(records, parts, masks="folder")


def test_parts_of_a_split_are_disjoint_and_depend_on_the_seed(parts, records):
    frames = load_frames(records, parts)
    calibration, held_out = frames.split(0.25, seed=3)
    assert len(held_out) == RECORDS // 4
    together = torch.cat([calibration.picture_ids, held_out.picture_ids])
    assert together.sort().values.equal(frames.picture_ids)
    assert frames.split(0.25, seed=3)[1].picture_ids.equal(held_out.picture_ids)
    assert not frames.split(0.25, seed=4)[1].picture_ids.equal(held_out.picture_ids)
    with pytest.raises(InputError, match="at least 2"):
        frames.rows(slice(1)).split(0.5)


class TwoPeople:
    """Finds one person on the left and one on the right."""

    def __call__(self, rgb):
        boxes = torch.tensor([[4.0, 8.0, 20.0, 50.0], [26.0, 6.0, 44.0, 56.0]])
        return Detections(boxes_xyxy=boxes, scores=torch.ones(2))


class Nobody:
    def __call__(self, rgb):
        return Detections(boxes_xyxy=torch.zeros(0, 4), scores=torch.zeros(0))


def test_people_of_one_picture_stay_together(parts, pictures):
    frames = load_frames(pictures, parts, masks="ellipse", detector=TwoPeople())
    assert frames.masks is not None and load_frames(pictures, parts, detector="full").masks is None
    with pytest.raises(UsageError, match="pictures have none"):
        load_frames(pictures, parts, masks="true")
    assert len(frames) == 12 and frames.describe().startswith("12 people in 6 pictures, without labels")
    for part in frames.split(0.4):
        assert (part.picture_ids.bincount()[part.picture_ids] == 2).all()


def test_the_crops_are_those_that_the_pipeline_makes(hmr, pictures):
    from fasthmr.geometry.crops import crop_pictures
    from fasthmr.io.images import read_image

    frames = load_frames(pictures, ModelParts.of(hmr), detector="full")
    row = int((frames.picture_ids == 2).nonzero())
    rgb = read_image(pictures / "2.png")
    crop = crop_pictures(rgb, torch.tensor([[0.0, 0.0, 48.0, 60.0]]), 128)
    torch.testing.assert_close(frames.pictures[row], hmr.picture(crop.pixels)[0])


def test_masks_from_files(parts, pictures, tmp_path):
    for number in range(6):
        mask = np.zeros((60, 48, 3), dtype=np.uint8)
        mask[:, : 4 * number + 8] = 255
        write_image(tmp_path / f"{number}.png", mask)
    frames = load_frames(pictures, parts, masks=str(tmp_path), detector="full")
    order = frames.picture_ids.argsort()
    assert frames.masks is not None
    shares = frames.masks[order].float().mean((1, 2))
    assert (shares.diff() > 0).all() and shares[0] == pytest.approx(8 / 48, abs=0.05)

    write_image(tmp_path / "3.png", np.zeros((30, 24, 3), dtype=np.uint8))
    with pytest.raises(InputError, match=r"3\.png: the mask has 24x30 pixels, its picture 3\.png 48x60"):
        load_frames(pictures, parts, masks=str(tmp_path), detector="full")
    (tmp_path / "3.png").unlink()
    with pytest.raises(InputError, match=r"no mask 3\.png"):
        load_frames(pictures, parts, masks=str(tmp_path), detector="full")
    with pytest.raises(UsageError, match="did you mean 'ellipse'"):
        load_frames(pictures, parts, masks="elipse", detector="full")


def segmentation_file(path: Path, channels: int) -> Path:
    """Takes red of the normalised picture for the person."""
    import onnx
    from onnx import TensorProto, helper

    weight = np.zeros((channels, 3, 1, 1), dtype=np.float32)
    weight[{1: 0, 2: 1, 21: 15}.get(channels, 0), 0] = 5
    nodes = [helper.make_node("Conv", ["picture", "weight"], ["out"], kernel_shape=[1, 1])]
    graph = helper.make_graph(
        nodes,
        "segment",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, channels, 32, 32])],
        [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.flatten())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("channels", [1, 2, 21])
def test_masks_from_a_segmentation_model(parts, tmp_path, channels):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        rgb = np.zeros((60, 48, 3), dtype=np.uint8)
        rgb[:, 12:36, 0] = 255  # a red person
        write_image(folder / f"{number}.png", rgb)
    file = segmentation_file(tmp_path / "segment.onnx", channels)
    frames = load_frames(folder, parts, masks=str(file), detector="full")
    assert frames.masks is not None and frames.mask_source == "segment.onnx"
    assert frames.masks[0, 32, 24] and not frames.masks[0, 32, :8].any()
    assert frames.masks.float().mean() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UsageError, match="gives"):
        load_frames(folder, parts, masks=str(segmentation_file(tmp_path / "seven.onnx", 7)), detector="full")


def write_video(path: Path, frames: int) -> None:
    with VideoWriter(path, 25.0, (48, 64)) as video:
        for number in range(frames):
            rgb = np.full((64, 48, 3), 40 * number, dtype=np.uint8)
            video.write(rgb, number / 25)


def test_people_of_videos(parts, tmp_path):
    write_video(tmp_path / "a.mp4", 3)
    lone = load_frames(tmp_path / "a.mp4", parts, detector=TwoPeople())
    assert len(lone) == 6 and len(lone.picture_ids.unique()) == 3
    write_video(tmp_path / "b.mp4", 2)
    write_image(tmp_path / "c.png", np.zeros((64, 48, 3), dtype=np.uint8))
    together = load_frames(tmp_path, parts, detector=TwoPeople())
    assert torch.bincount(together.picture_ids).sort().values.tolist() == [2, 4, 6]
    with pytest.raises(UsageError, match="cameras and streams"):
        load_frames("0", parts)


def test_folders_that_cannot_be_used(parts, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_frames(tmp_path / "nowhere", parts)
    with pytest.raises(InputError, match="no pictures and no videos"):
        load_frames(tmp_path, parts)
    (tmp_path / "clip.mp4").write_bytes(b"video")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 2 files can be read"):
        load_frames(tmp_path, parts, detector="full")
    write_image(tmp_path / "b.png", np.zeros((40, 30, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="nobody was found"):
        load_frames(tmp_path, parts, detector=Nobody())


def test_ellipse_of_a_box_in_its_crop():
    box = torch.tensor([[10.0, 20.0, 40.0, 80.0]])
    square = ellipse_in_crop(box, torch.tensor([[25.0, 50.0]]), torch.tensor([60.0]), 120)[0]
    assert square[60, 60] and square[60, 32] and not square[60, 28] and square[2, 60]
    assert square.float().mean() == pytest.approx(torch.pi / 4 * 0.5, abs=0.01)
