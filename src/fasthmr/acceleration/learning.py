"""What is trained around merging: a head that finds the person, and the merged model itself."""

from __future__ import annotations

from torch import nn

from fasthmr.acceleration.frames import Frames
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.search import Progress, silent
from fasthmr.acceleration.settings import AccelerateConfig
from fasthmr.reduction.self_mask import SelfMaskConfig, SelfMaskHead
from fasthmr.training.crop_batches import BatchSource, PictureBatches, RecordBatches
from fasthmr.training.heal import HealConfig, heal
from fasthmr.training.self_mask import SelfMaskTraining, train_self_mask


def training_batches(parts: ModelParts, calibration: Frames, config: AccelerateConfig) -> BatchSource:
    """What healing learns from: the calibration part, or `config.heal_data`."""
    if config.heal_data is not None:
        return RecordBatches(
            config.heal_data, parts.image_size, batch_size=config.heal_batch, seed=config.seed
        )
    return PictureBatches(
        calibration.pictures,
        calibration.masks,
        calibration.bbox_info,
        batch_size=config.heal_batch,
        seed=config.seed,
    )


def learn_self_mask(
    parts: ModelParts, source: BatchSource, config: AccelerateConfig, progress: Progress | None = None
) -> SelfMaskHead:
    """A head that finds the person on the model's tokens."""
    encoder = parts.model.encoder
    steps = config.self_mask_steps
    tell = progress or silent
    # Tokens of a convolution stem know enough at once; plain patches have to look at each other first.
    after = 0 if len(encoder.channels) > 1 else min(2, parts.depth - 1)
    return train_self_mask(
        parts.model,
        source,
        SelfMaskTraining(steps=steps, seed=config.seed),
        head=SelfMaskConfig(dim=encoder.channels[-1], after=after),
        progress=lambda step, loss: tell("self-mask", step + 1, steps),
    )


def heal_merged(
    merged: nn.Module,
    parts: ModelParts,
    source: BatchSource,
    config: AccelerateConfig,
    progress: Progress | None = None,
) -> nn.Module:
    """Distil a merged copy from its original."""
    steps = config.heal_steps
    tell = progress or silent
    return heal(
        merged,
        parts.model,
        source,
        HealConfig(steps=steps),
        progress=lambda step, terms: tell("healing", step + 1, steps),
    ).eval()
