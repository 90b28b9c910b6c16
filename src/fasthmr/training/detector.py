"""Train the built-in person detector on pasted scenes of synthetic people.

Run: python -m fasthmr.training.detector --data RENDERED --out OUT, where RENDERED holds `train` and `val`
shards of rendered people (`fasthmr.data.shards`). Stops and resumes from
`OUT/checkpoint.pt`; at the end writes `OUT/person_detector.safetensors`.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasthmr.checkpoints.files import save_weights
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.person_scenes import PersonScenes, Scene
from fasthmr.data.shards import load_shards
from fasthmr.data.synthetic import package_assets
from fasthmr.evaluation.detections import DetectionTally
from fasthmr.io.atomic import atomic_path
from fasthmr.models.person_detector import CellPredictions, PersonDetector, PersonDetectorConfig, select_boxes
from fasthmr.training.averaging import follow_average

_LOG = logging.getLogger(__name__)

CENTER_RADIUS = 1.7
"""Cells this many strides around the centre of a box learn it (FCOS, centre sampling)."""

LEVEL_SIDES = {8: (0.0, 80.0), 16: (56.0, 192.0), 32: (136.0, math.inf)}
"""Longer sides of the boxes each stride learns, pixels; neighbours overlap."""

_SHAPES = ((256, 256), (224, 288), (288, 224), (192, 320), (320, 192), (352, 352), (288, 448))


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """Schedule of the training; a batch holds about `batch` pictures of 256x256 pixels."""

    steps: int = 2400
    batch: int = 12
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.03
    ema: float = 0.998
    seed: int = 0
    uses: int = 2
    box_weight: float = 2.0


def assign_cells(
    boxes: Float[Tensor, "people 4"],
    ignored: Bool[Tensor, "people"],
    centers: Float[Tensor, "cells 2"],
    strides: Float[Tensor, "cells"],
) -> tuple[Int[Tensor, "cells"], Bool[Tensor, "cells"]]:
    """The person each cell learns (-1 for none), and the cells left out of the score loss.

    Where several people claim a cell, the one whose middle is nearest gets it: were it the smallest,
    people with a smaller one before them would learn nothing.
    """
    if len(boxes) == 0:
        return torch.full((len(centers),), -1), torch.zeros(len(centers), dtype=torch.bool)
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(-1)
    inside = ((centers[:, None] > boxes[:, :2]) & (centers[:, None] < boxes[:, 2:])).all(-1)
    away = (centers[:, None] - middle).norm(dim=-1) / strides[:, None]
    ranges = torch.tensor([LEVEL_SIDES[int(stride)] for stride in strides.unique().tolist()])
    level = torch.searchsorted(strides.unique(), strides)
    suits = (side >= ranges[level, :1]) & (side <= ranges[level, 1:])
    claims = suits & inside & (away < CENTER_RADIUS)
    # A thin box may hold no centre of a cell: the nearest one learns it.
    nearest = (away + torch.where(suits, 0.0, 1e6)).argmin(0)
    claims[nearest, torch.arange(len(boxes))] = True
    claims &= ~ignored
    owner = torch.where(claims, away, torch.inf).argmin(-1)
    owner = torch.where(claims.any(-1), owner, -1)
    left_out = (inside & ignored).any(-1) & (owner < 0)
    return owner, left_out


def pair_giou(
    a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Intersection over union, and its generalised form (arXiv 1902.09630), of box pairs."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - inner
    iou = inner / union.clamp(min=1e-6)
    return iou, iou - (outer - union) / outer.clamp(min=1e-6)


def detection_loss(
    cells: CellPredictions, scenes: list[Scene], box_weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Quality focal loss of the scores and GIoU loss of the boxes, both per learning cell."""
    score_loss, box_loss, learning = cells.logits.new_zeros(()), cells.logits.new_zeros(()), 0
    for logits, boxes, scene in zip(cells.logits, cells.boxes_xyxy, scenes, strict=True):
        truth = torch.from_numpy(scene.boxes_xyxy)
        owner, left_out = assign_cells(truth, torch.from_numpy(scene.ignored), cells.centers, cells.strides)
        positive = owner >= 0
        target = torch.zeros_like(logits)
        if positive.any():
            iou, giou = pair_giou(boxes[positive], truth[owner[positive]])
            target[positive] = iou.detach()
            box_loss = box_loss + (1 - giou).sum()
            learning += int(positive.sum())
        error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weight = (logits.sigmoid() - target).detach().square()
        score_loss = score_loss + (error * weight)[~left_out].sum()
    scale = 1 / max(learning, 1)
    return score_loss * scale, box_weight * box_loss * scale


def mirrored(scene: Scene) -> Scene:
    """The scene seen in a mirror."""
    boxes = scene.boxes_xyxy.copy()
    boxes[:, [0, 2]] = scene.rgb.shape[1] - boxes[:, [2, 0]]
    return Scene(rgb=np.ascontiguousarray(scene.rgb[:, ::-1]), boxes_xyxy=boxes, ignored=scene.ignored)


def stack_pixels(scenes: list[Scene]) -> Float[Tensor, "batch 3 height width"]:
    """Network input of scenes of one size."""
    pixels = torch.from_numpy(np.stack([scene.rgb for scene in scenes])).permute(0, 3, 1, 2)
    return pixels.to(torch.float32).div(255).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def validate(model: PersonDetector, scenes: PersonScenes, count: int, side: int = 320) -> DetectionTally:
    """Detections of the model in new scenes."""
    was_training = model.training
    model.eval()
    tally = DetectionTally()
    for index in range(count):
        scene = scenes.scene(index, (side, side) if index % 2 else (side * 3 // 4 // 32 * 32, side))
        cells = model(stack_pixels([scene]))
        boxes, scores = select_boxes(
            cells.boxes_xyxy[0], cells.logits[0], score_threshold=0.02, nms_threshold=NMS_THRESHOLD
        )
        truth, ignored = torch.from_numpy(scene.boxes_xyxy), torch.from_numpy(scene.ignored)
        tally.add(boxes, scores, truth[~ignored], truth[ignored])
    model.train(was_training)
    return tally


NMS_THRESHOLD = 0.45


def train_detector(
    data: Path,
    out: Path,
    environments: Path | None = None,
    recipe: DetectorRecipe = DetectorRecipe(),
    config: PersonDetectorConfig = PersonDetectorConfig(),  # noqa: B008 - frozen
    validation_scenes: int = 400,
    backgrounds: int = 500,
    save_every: int = 100,
) -> Path:
    """Train, or go on training, and write the weights; returns their path.

    Args:
        data: Folder of rendered people.
        environments: Folder of backgrounds; None takes the package's own.
    """
    environments = environments or package_assets("environments")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = config.build()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    checkpoint, step = out / "checkpoint.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    library = EnvironmentLibrary.load(environments, "train", package=environments)
    scenes = PersonScenes(
        [shard.rgbm for shard in load_shards(data / "train")],
        library,
        seed=recipe.seed,
        backgrounds=backgrounds,
    )
    model.train()
    begin, kept, sums = time.monotonic(), [], torch.zeros(2)
    while step < recipe.steps:
        turn, use = divmod(step, recipe.uses)
        if use == 0 or not kept:
            height, width = _SHAPES[turn % len(_SHAPES)]
            count = max(2, round(recipe.batch * 256 * 256 / (height * width)))
            kept = [scenes.scene(turn * 1000 + i, (height, width)) for i in range(count)]
        batch = [mirrored(scene) for scene in kept] if use % 2 else kept
        progress = step / recipe.steps
        rate = (
            recipe.learning_rate
            * min(1, (step + 1) / recipe.warmup)
            * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = detection_loss(model(stack_pixels(batch)), batch, recipe.box_weight)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        follow_average(average, model, min(recipe.ema, (step + 1) / (step + 10)))
        sums += torch.stack([loss.detach() for loss in losses])
        if step % 50 == 0:
            score, box = (sums / 50).tolist()
            sums.zero_()
            _LOG.info("step %d score %.3f box %.3f %.0f s", step, score, box, time.monotonic() - begin)
        if step % save_every == 0 or step == recipe.steps:
            with atomic_path(checkpoint) as path:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                    },
                    path,
                )
    unseen = EnvironmentLibrary.load(environments, "test", package=environments)
    tally = validate(
        average,
        PersonScenes(
            [shard.rgbm for shard in load_shards(data / "val")],
            unseen,
            seed=1,
            backgrounds=max(1, backgrounds // 4),
        ),
        validation_scenes,
    )
    threshold = tally.best_threshold()
    _LOG.info(
        "validation: AP %.3f, at score %.2f recall %.3f precision %.3f",
        tally.average_precision(),
        threshold,
        tally.recall(threshold),
        tally.precision(threshold),
    )
    return export_weights(average, threshold, out / "person_detector.safetensors")


def export_weights(model: PersonDetector, score_threshold: float, path: Path) -> Path:
    """Write half-precision weights with the configuration and thresholds in the header."""
    header = {
        "config": json.dumps(asdict(model.config)),
        "score_threshold": f"{score_threshold:.3f}",
        "nms_threshold": f"{NMS_THRESHOLD:.2f}",
    }
    save_weights(model, path, metadata=header)
    return path


def main() -> None:
    """Command line of the module."""
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    tyro.cli(train_detector)


if __name__ == "__main__":
    main()
