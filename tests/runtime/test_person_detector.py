"""The built-in person detector: any picture gives boxes inside it; bad weights give one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fasthmr.errors import CheckpointMismatch, InputError, UnsafeFileError
from fasthmr.models.person_detector import PersonDetectorConfig
from fasthmr.runtime.person_detector import (
    BuiltInPersonDetector,
    fold_batch_norm,
    letterbox,
    load_person_detector,
)

ASSET = Path(__file__).resolve().parents[2] / "src" / "fasthmr" / "assets" / "person_detector.safetensors"


@pytest.fixture(scope="module")
def detector() -> BuiltInPersonDetector:
    return load_person_detector()


@pytest.mark.parametrize("size", [(480, 640), (1, 700), (700, 1), (33, 31), (1, 1)])
def test_boxes_lie_inside_any_picture(detector: BuiltInPersonDetector, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = detector(picture)
    limit = torch.tensor([size[1], size[0]] * 2)
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= limit).all()
    assert (found.boxes_xyxy[:, 2:] > found.boxes_xyxy[:, :2]).all()
    assert (found.scores.diff() <= 0).all()


def test_nobody_in_an_empty_picture(detector: BuiltInPersonDetector) -> None:
    assert len(detector(np.full((120, 160, 3), 128, np.uint8)).scores) == 0


def test_refuses_what_is_no_rgb_picture(detector: BuiltInPersonDetector) -> None:
    for picture in (
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ):
        with pytest.raises(InputError, match="RGB bytes"):
            detector(picture)


def test_the_picture_keeps_its_shape_and_is_padded_to_whole_cells() -> None:
    picture = torch.full((1, 3, 100, 200), 255, dtype=torch.uint8)
    pixels, factors = letterbox(picture, 128)
    assert pixels.shape == (1, 3, 64, 128)
    assert factors.tolist() == pytest.approx([0.64] * 4)
    assert (pixels == 1).all()
    assert letterbox(picture, 160)[0].shape == (1, 3, 96, 160)


def test_folding_keeps_the_outputs() -> None:
    torch.manual_seed(0)
    model = PersonDetectorConfig(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1), neck=8).build()
    for _ in range(3):
        model(torch.rand(2, 3, 64, 64))
    model.eval()
    pixels = torch.rand(1, 3, 64, 64)
    before = model(pixels)
    after = fold_batch_norm(model)(pixels)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.boxes_xyxy, before.boxes_xyxy, rtol=1e-4, atol=1e-3)


def test_weights_are_small_and_half_precision() -> None:
    assert ASSET.stat().st_size < 5e6
    assert {t.dtype for t in load_file(ASSET).values()} <= {torch.float16, torch.int64}


def test_bad_weights(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"missing\.safetensors"):
        load_person_detector(tmp_path / "missing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(ASSET.read_bytes()[:5000])
    with pytest.raises(UnsafeFileError, match="not weights"):
        load_person_detector(cut)
    from safetensors import safe_open

    with safe_open(ASSET, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(ASSET)
    strange = tmp_path / "strange.safetensors"
    save_file({**tensors, "score.bias": torch.zeros(2)}, strange, metadata=header)
    with pytest.raises(CheckpointMismatch, match=r"score\.bias"):
        load_person_detector(strange)
    save_file({**tensors, "score.bias": torch.tensor([torch.nan])}, strange, metadata=header)
    with pytest.raises(UnsafeFileError, match="finite"):
        load_person_detector(strange)
    save_file(tensors, strange)
    with pytest.raises(UnsafeFileError, match="config"):
        load_person_detector(strange)
