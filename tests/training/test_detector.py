"""Training of the person detector: which cell learns what, and a run that stops and goes on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from fasthmr.data.person_scenes import Scene
from fasthmr.geometry.boxes import box_iou
from fasthmr.models.person_detector import PersonDetectorConfig
from fasthmr.runtime.person_detector import load_person_detector
from fasthmr.training.detector import (
    DetectorRecipe,
    assign_cells,
    detection_loss,
    export_weights,
    mirrored,
    pair_giou,
    stack_pixels,
    train_detector,
)

TINY = PersonDetectorConfig(widths=(8, 8, 16, 16, 16), depths=(1, 1, 1, 1), neck=16)


def scene_of(boxes: list[list[float]], side: int = 96) -> Scene:
    """Bright blocks on a dark ground."""
    rgb = np.full((side, side, 3), 30, np.uint8)
    for x1, y1, x2, y2 in np.array(boxes, int):
        rgb[y1:y2, x1:x2] = 220
    return Scene(
        rgb=rgb, boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4), ignored=np.zeros(len(boxes), bool)
    )


def test_every_person_asked_for_is_learned_and_ignored_ones_are_left_out() -> None:
    cells = TINY.build().eval()(torch.zeros(1, 3, 96, 96))
    boxes = torch.tensor([[0.0, 0, 5, 14], [20, 10, 60, 90], [62, 10, 90, 60], [0, 0, 96, 96]])
    ignored = torch.tensor([False, False, True, False])
    owner, left_out = assign_cells(boxes, ignored, cells.centers, cells.strides)
    assert owner.unique().tolist() == [-1, 0, 1, 3]
    inside = ((cells.centers > boxes[2, :2]) & (cells.centers < boxes[2, 2:])).all(-1)
    assert left_out[inside & (owner < 0)].all()
    assert not left_out[~inside].any()
    assert (owner[left_out] == -1).all()


def test_nobody_there() -> None:
    cells = TINY.build()(torch.zeros(2, 3, 64, 64))
    score, box = detection_loss(cells, [scene_of([], 64)] * 2, 2.0)
    assert score > 0
    assert box == 0


def test_giou_of_pairs() -> None:
    torch.manual_seed(0)
    a, b = (torch.rand(20, 4) * 10 for _ in range(2))
    a[:, 2:] += a[:, :2] + 0.1
    b[:, 2:] += b[:, :2] + 0.1
    iou, giou = pair_giou(a, b)
    torch.testing.assert_close(iou, box_iou(a, b).diagonal())
    assert (giou <= iou + 1e-6).all()
    assert (giou >= -1).all()
    torch.testing.assert_close(pair_giou(a, a)[1], torch.ones(20))


def test_a_mirror_keeps_what_boxes_hold() -> None:
    scene = scene_of([[10, 20, 30, 80]])
    seen = mirrored(scene)
    x1, y1, x2, y2 = seen.boxes_xyxy[0].astype(int)
    assert (x1, x2) == (66, 86)
    assert (seen.rgb[y1:y2, x1:x2] == 220).all()


def test_the_loss_falls_and_learning_cells_find_their_people() -> None:
    torch.manual_seed(0)
    scenes = [scene_of([[10, 12, 40, 84]]), scene_of([[50, 30, 80, 90]])]
    model, losses = TINY.build(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        score, box = detection_loss(model(stack_pixels(scenes)), scenes, 2.0)
        losses.append(float(box.detach()))
        optimizer.zero_grad()
        (score + box).backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_exported_weights_give_the_same_cells(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TINY.build()
    model(torch.rand(4, 3, 64, 64))
    detector = load_person_detector(export_weights(model.eval(), 0.437, tmp_path / "detector.safetensors"))
    assert detector.score_threshold == 0.437
    assert detector.model.config == TINY
    pixels = torch.rand(1, 3, 64, 64)
    after, before = detector.model(pixels), model(pixels)
    torch.testing.assert_close(after.logits, before.logits, rtol=0.01, atol=0.02)
    torch.testing.assert_close(after.boxes_xyxy, before.boxes_xyxy, rtol=0.01, atol=0.2)


def test_a_run_stops_and_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.full((4, 64, 64, 4), 200, np.uint8)
    people[..., 3] = 0
    for person in people:
        cv2.ellipse(person, (32, 32), (10, 28), 0, 0, 360, [*rng.integers(0, 255, 3).tolist(), 255], -1)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "00000.rgbm.npy", people)
        np.savez(tmp_path / split / "00000.labels.npz", index=np.arange(len(people)))

    def run(steps: int, out: str) -> Path:
        recipe = DetectorRecipe(steps=steps, batch=1, warmup=1)
        return train_detector(
            tmp_path, tmp_path / out, None, recipe, TINY, backgrounds=2, validation_scenes=2
        )

    run(2, "a")
    first = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    weights = run(3, "a")
    assert torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert first != (tmp_path / "a" / "checkpoint.pt").read_bytes()
    assert 0 <= load_person_detector(weights).score_threshold <= 1
