"""Recipe `first_light`: the default preset from scratch on synthetic people.

First the pose decoder learns as a lifter on poses alone, then the whole model on rendered crops. The rate is
constant after a warm-up and falls linearly to zero over the last `decay_steps`, so that a run can go on from
any checkpoint with more steps. Batch and augmentation of a step depend on (seed, step) only: a resumed run
continues as if it had not stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from fasthmr.body.default_body import load_default_body
from fasthmr.body.keypoints import KeypointBody
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import read_weights, save_weights
from fasthmr.data.augment import AugmentConfig, RecordStore, TrainBatch, make_batch
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.records import KEYPOINTS_IN_POINTS
from fasthmr.data.shards import load_shards, write_shards
from fasthmr.data.synthetic import package_assets
from fasthmr.encoders.convvit import ConvViT
from fasthmr.layers.block import TransformerBlock
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.training.lifter import LifterConfig, pretrain_lifter
from fasthmr.training.losses import LossWeights, losses
from fasthmr.training.precision import has_bf16
from fasthmr.zoo import create_model

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FirstLightConfig:
    """Settings of the recipe.

    Attributes:
        start_from: Weights of a smaller preset to grow from; None starts from scratch.
        data: Folder of rendered shards; records that are missing up to `records` are rendered first.
        out: Folder for checkpoints and, at the end, `<preset>.safetensors`.
        wardrobe: Folder with garments; None for the package's.
        environments: Folder with backgrounds and lights; None for the package's.
        motion: Folder with motion clips; None for the package's.
        steps: Optimiser steps in all.
        devices: Processes or GPUs that share each step and draw `batch_size` crops each; on a CPU, processes
            of one thread train faster than one process of several threads.
        half_size_steps: First steps, on pictures of half the size and twice as many: coarse pose is learned
            four times as fast there (progressive resizing, arXiv 2104.00298, sec. 4).
        decay_steps: Steps at the end over which the rate falls to zero.
        ema: Decay of the averaged weights, which are the ones kept.
        bf16: Compute in bfloat16 where the processor has instructions for it.
    """

    data: Path
    out: Path
    preset: str = "fasthmr_m"
    start_from: Path | None = None
    records: int = 48_000
    render_workers: int = 2
    wardrobe: Path | None = None
    environments: Path | None = None
    motion: Path | None = None
    steps: int = 8000
    devices: int = 1
    half_size_steps: int = 5000
    decay_steps: int = 2000
    warmup_steps: int = 300
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    ema: float = 0.998
    bf16: bool = True
    seed: int = 0
    checkpoint_every: int = 250
    weights: LossWeights = field(default_factory=LossWeights)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    lifter: LifterConfig = field(default_factory=LifterConfig)


class StepBatches(IterableDataset[TrainBatch]):
    """Augmented batches from step `start` on; step t is a function of (seed, t, rank)."""

    def __init__(
        self, store: RecordStore, model: KeypointHMR, config: FirstLightConfig, start: int, rank: int
    ) -> None:
        self._store, self._config, self._start, self._rank = store, config, start, rank
        self._image_size = model.config.encoder.image_size

    def __iter__(self) -> Iterator[TrainBatch]:
        config = self._config
        for step in range(self._start, config.steps):
            draw = (config.seed * 1_000_003 + step) * config.devices + self._rank
            generator = torch.Generator().manual_seed(draw)
            height, width = self._image_size
            count = config.batch_size
            if step < config.half_size_steps:
                height, width, count = height // 2, width // 2, 2 * count
            indices = torch.randint(len(self._store), (count,), generator=generator)
            yield make_batch(self._store.batch(indices), config.augment, generator, height, (height, width))


class FirstLight(L.LightningModule):
    """Thin shell around the model: losses, averaging, rate."""

    def __init__(self, config: FirstLightConfig) -> None:
        super().__init__()
        self.config = config
        self.model = cast(KeypointHMR, create_model(config.preset)).train()
        self.averaged = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
        ).requires_grad_(False)
        self.keypoint_body = KeypointBody(load_default_body(), KEYPOINTS_IN_POINTS)

    def training_step(self, batch: TrainBatch, batch_index: int) -> torch.Tensor:
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        output = self.model.estimate(pixels)
        total, terms = losses(output, batch, self.keypoint_body, self.config.weights)
        if self.global_step % 50 == 0:
            shown = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
            _LOG.info("step %d: total %.4f %s", self.global_step, total.item(), shown)
        return total

    def transfer_batch_to_device(self, batch: TrainBatch, device: torch.device, index: int) -> TrainBatch:
        return TrainBatch(**{key: value.to(device) for key, value in vars(batch).items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() <= 1]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
        )

    def on_train_batch_start(self, *args: Any) -> None:
        config, step = self.config, self.global_step
        left = (config.steps - step) / max(config.decay_steps, 1)
        rate = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps, left)
        for group in cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)).param_groups:
            group["lr"] = rate


class _Averaging(L.Callback):
    """Updates the averaged weights; a callback, since those run before the checkpoint is written."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        module = cast(FirstLight, pl_module)
        module.averaged.update_parameters(module.model)


class _Batches(L.LightningDataModule):
    """Starts the stream of batches at the step that training has reached."""

    def __init__(self, store: RecordStore, module: FirstLight) -> None:
        super().__init__()
        self._store, self._module = store, module

    def train_dataloader(self) -> DataLoader[TrainBatch]:
        module = self._module
        batches = StepBatches(
            self._store, module.model, module.config, module.global_step, module.global_rank
        )
        return DataLoader(batches, batch_size=None)


def grow(model: KeypointHMR, path: Path) -> None:
    """Take over the weights of a smaller model, as far as names and shapes agree.

    ViT blocks that it does not have start as the identity (their last layers are zero), so that the larger
    model begins where the smaller one stopped (function-preserving growth, arXiv 1511.05641).
    """
    given, _ = read_weights(path)
    own = model.state_dict()
    taken = {key: tensor for key, tensor in given.items() if key in own and own[key].shape == tensor.shape}
    model.load_state_dict({**own, **taken})
    blocks = cast(ConvViT, model.encoder).blocks
    for index, block in enumerate(cast("list[TransformerBlock]", list(blocks))):
        if not any(key.startswith(f"encoder.blocks.{index}.") for key in taken):
            for parameter in (*block.attn.proj.parameters(), *block.mlp.fc2.parameters()):
                nn.init.zeros_(parameter)
    _LOG.info("%d of %d tensors come from %s", len(taken), len(own), path)


def export_weights(module: FirstLight, path: Path) -> None:
    """Write the averaged weights in half precision."""
    averaged = cast(KeypointHMR, module.averaged.module)
    note = {
        "preset": module.config.preset,
        "config": config_to_json(averaged.config),
        "recipe": "first_light",
        "step": str(module.global_step),
    }
    save_weights(averaged, path, metadata=note)


def train(config: FirstLightConfig) -> Path:
    """Run or continue the recipe.

    Returns:
        The file with the averaged weights.
    """
    L.seed_everything(config.seed)
    people = {"split": "train", "seed": config.seed}
    people |= {key: getattr(config, key) for key in ("wardrobe", "environments", "motion")}
    write_shards(people, config.data, config.records, config.render_workers)
    store = RecordStore(load_shards(config.data))
    config.out.mkdir(parents=True, exist_ok=True)
    last = config.out / "last.ckpt"
    module = FirstLight(config)
    if config.start_from is not None:
        grow(module.model, config.start_from)
    elif not last.is_file() and config.lifter.steps:
        library = MotionLibrary.load(config.motion or package_assets("motion"), "train")
        pretrain_lifter(module.model.head.decoder, library, module.keypoint_body, config.lifter)
    module.model = module.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = L.Trainer(
        accelerator="auto",
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        max_steps=config.steps,
        precision="bf16-mixed" if config.bf16 and has_bf16(device) else "32-true",
        gradient_clip_val=1.0,
        callbacks=[
            _Averaging(),
            ModelCheckpoint(
                dirpath=config.out, filename="last", every_n_train_steps=config.checkpoint_every,
                save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=False,
            )
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.out,
    )  # fmt: skip
    trainer.fit(module, datamodule=_Batches(store, module), ckpt_path=str(last) if last.is_file() else None)
    target = config.out / f"{config.preset}.safetensors"
    export_weights(module, target)
    _LOG.info("%s after %d steps; settings %s", target, module.global_step, asdict(config))
    return target
