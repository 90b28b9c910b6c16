"""Recipe `hierarchical`: encoders in stages, whole or cut, for 2D pose and for meshes, on synthetic people.

One recipe for all of them (arXiv 2510.12660): 2D pose as ViTPose learns it, meshes as HMR 2.0 does, each
alone or both on one encoder, from that of an earlier run, from published ImageNet weights, or from nothing.
Crops are cut once and shared by runs. Steps depend on (seed, step) alone: a resumed run goes on as if it had
not stopped. See docs/design/030.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.keypoints import KeypointBody
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.augment import AugmentConfig, TrainBatch
from fasthmr.data.records import KEYPOINTS_IN_POINTS
from fasthmr.errors import UsageError
from fasthmr.geometry.heatmaps import heatmap_targets
from fasthmr.heads.keypoint_smpl import PoseEstimate
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.training.heatmap_loss import heatmap_loss
from fasthmr.training.hierarchical_data import COCO17_POINTS, StoredCrops, cut_crops, to_pixels
from fasthmr.training.hierarchical_errors import (
    find_keypoints,
    keypoint_errors,
    mesh_errors,
    true_keypoints,
)
from fasthmr.training.hierarchical_model import (
    Learner,
    Model,
    Task,
    model_config,
    set_mean_pose,
    start_encoder,
)
from fasthmr.training.hours import HourCounter
from fasthmr.training.layer_decay import layer_decay_groups
from fasthmr.training.loop import LoopConfig, run_loop
from fasthmr.training.losses import LossWeights, pose_losses
from fasthmr.types import HMROutput

_LOG = logging.getLogger(__name__)

_TYPICAL_AREA = 0.15
"""Of a person, in squares of the crop side; what OKS counts with during training."""

_SPREAD = 3 / 64
"""Standard deviation of the heat-map targets over the rows of the map: a little more than ViTPose's 2 / 64,
since maps of small pictures have few cells."""


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig:
    """Settings of the recipe.

    Attributes:
        out: Folder for the checkpoint and, at the end, `pose.safetensors` and `mesh.safetensors`.
        data: Folder of rendered shards to train on.
        validation: The same for people that are not trained on.
        crops: Folder for the crops that are cut from them; runs with the same data, size and augmentation
            share it.
        tasks: "pose" (heat maps of 17 key points), "mesh" (SMPL parameters of the free body), or both on one
            encoder.
        encoder: Such as `swin_t_s3`: family, size and the stages that are kept; or a plain ViT (`vit_s`).
        start: ImageNet weights of the family, or a model of an earlier run whose encoder to go on with.
        narrowing: Widths are divided by it; 1 trains the presets.
        drop_path: Stochastic depth of the last block of the whole encoder; None for the preset's.
        samples: Crops to cut for training.
        validated: People to measure on while training.
        layer_decay: Learning rate of a layer over that of the next one; 1 where nothing was learnt before.
        heat: Weight of the heat maps' mean squared error.
        weights: Of the terms of the mesh loss.
    """

    out: Path
    data: Path
    validation: Path
    crops: Path | None = None
    tasks: tuple[Task, ...] = ("pose",)
    encoder: str = "swin_t_s3"
    start: Path | None = None
    narrowing: int = 1
    image_size: tuple[int, int] = (256, 192)
    drop_path: float | None = None
    samples: int = 40_960
    validated: int = 256
    steps: int = 10_000
    batch_size: int = 64
    learning_rate: float = 5e-4
    layer_decay: float = 1.0
    weight_decay: float = 0.1
    clip: float = 1.0
    ema: float = 0.99
    seed: int = 0
    checkpoint_every: int = 200
    report_every: int = 1000
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    heat: float = 500.0
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UsageError(f"tasks={self.tasks}: name 'pose', 'mesh' or both, each once")
        if min(self.samples, self.validated, self.batch_size, self.narrowing) < 1:
            raise UsageError("samples, validated, batch_size and narrowing are at least 1")


class HierarchicalTraining:
    """Models, crops and loss of one run."""

    def __init__(self, config: HierarchicalConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.configs: dict[Task, PoseConfig | HMRConfig] = {
            task: model_config(
                config.encoder,
                task,
                narrowing=config.narrowing,
                image_size=config.image_size,
                drop_path=config.drop_path,
                continuing=config.start is not None,
            )
            for task in config.tasks
        }
        self.learner = Learner(self.configs)
        if config.start is not None:
            start_encoder(self.learner.encoder, config.start)
        folder = config.crops or config.out / "crops"
        size = config.image_size
        cut_crops(config.data, folder / "train", config.samples, size, augment=config.augment)
        cut_crops(config.validation, folder / "validation", config.validated, size, augment=None)
        self.crops = StoredCrops(folder / "train", config.samples)
        self.validation = StoredCrops(folder / "validation", config.validated)
        self.body = load_default_body()
        self.keypoint_body = KeypointBody(self.body, KEYPOINTS_IN_POINTS)
        if "mesh" in config.tasks:
            head = self.learner.heads["mesh"]
            set_mean_pose(head, self.crops.labels("rotations"), self.crops.labels("betas"))

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a step, and its terms."""
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + step)  # of stochastic depth
        batch = self.crops.of_step(step, config.batch_size, config.seed)
        outputs = self.learner(batch.pixels)
        total, terms = batch.pixels.new_zeros(()), {}
        if "pose" in outputs:
            terms["heat maps"] = self._heat(cast(Tensor, outputs["pose"]), batch)
            total = total + config.heat * terms["heat maps"]
        if "mesh" in outputs:
            pose = _estimate(cast(HMROutput, outputs["mesh"]))
            found = pose_losses(pose, batch, self.keypoint_body)
            terms |= found
            weighted = [getattr(config.weights, name) * term for name, term in found.items()]
            total = total + torch.stack(weighted).sum()
        return total, {name: term.detach() for name, term in terms.items()}

    def _heat(self, maps: Tensor, batch: TrainBatch) -> Tensor:
        points = to_pixels(batch.points[:, COCO17_POINTS], self.config.image_size)
        visible = batch.inside[:, COCO17_POINTS].to(points)
        size = (maps.shape[-2], maps.shape[-1])
        sigma = _SPREAD * size[0]
        targets, weights = heatmap_targets(points, visible, self.config.image_size, size, sigma=sigma)
        return heatmap_loss(maps, targets, weights)

    def models(self, learner: Learner) -> dict[Task, Model]:
        """A model for each task with what has been learnt, in evaluation mode."""
        built: dict[Task, Model] = {}
        for task, config in self.configs.items():
            model = built[task] = config.build().eval()
            model.encoder.load_state_dict(learner.encoder.state_dict())
            model.head.load_state_dict(learner.heads[task].state_dict())
        return built

    def measured(self, learner: Learner) -> dict[str, float]:
        """Means of the errors on the people of the validation."""
        count, found = self.config.validated, {}
        models = self.models(learner)
        if "pose" in models:
            points = find_keypoints(models["pose"], self.validation, count)
            true, inside = true_keypoints(self.validation, count)
            found |= keypoint_errors(points, true, inside, torch.full((count,), _TYPICAL_AREA))
        if "mesh" in models:
            found |= mesh_errors(cast(HMR, models["mesh"]), self.validation, self.body, count)
        return {name: float(values.mean()) for name, values in found.items()}


def _estimate(output: HMROutput) -> PoseEstimate:
    params = output.params
    return PoseEstimate(rotmats=params.rotmats, betas=params.betas, camera=output.camera)


def train(config: HierarchicalConfig) -> dict[Task, Path]:
    """Run or continue the recipe.

    Returns:
        The files with the averaged weights, for each task.

    Raises:
        UsageError: The folder holds a run with other settings.
    """
    training = HierarchicalTraining(config)
    config.out.mkdir(parents=True, exist_ok=True)
    hours = HourCounter(config.out)

    def judge(learner: nn.Module) -> str:
        found = training.measured(cast(Learner, learner))
        hours.note()
        return ", ".join(f"{name} {value:.3f}" for name, value in found.items())

    loop = LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        clip=config.clip,
        ema=config.ema,
        bf16=False,
        checkpoint_every=config.checkpoint_every,
        report_every=config.report_every,
    )
    settings = {key: value for key, value in asdict(config).items() if key not in _PLACES}
    groups = layer_decay_groups(
        training.learner,
        lr=config.learning_rate,
        rate=config.layer_decay,
        weight_decay=config.weight_decay,
    )
    averaged = run_loop(
        training.learner,
        training.loss,
        loop,
        config.out / "last.ckpt",
        settings=str(sorted(settings.items())),
        judge=judge,
        groups=groups,
    )
    files: dict[Task, Path] = {}
    for task, model in training.models(cast(Learner, averaged)).items():
        note = {
            "config": config_to_json(model.config),
            "recipe": "hierarchical",
            "trained_body": "free",
            "settings": json.dumps(asdict(config), default=str, sort_keys=True),
        }
        files[task] = config.out / f"{task}.safetensors"
        save_weights(model, files[task], dtype=torch.float32, metadata=note)
    _LOG.info("%s after %d steps", config.out, config.steps)
    return files


_PLACES = ("out", "data", "validation", "crops", "start", "checkpoint_every", "report_every")
"""Settings that another run of the same training may change."""
