"""From a trained model and a folder of pictures to the same model at a fraction of its cost."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fasthmr.acceleration.figures import layer_similarity
from fasthmr.acceleration.frames import Frames, Labels, is_records, load_frames
from fasthmr.acceleration.judge import Judge
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.report import AccelerationReport, Variant, measure_variant, write_report
from fasthmr.acceleration.search import JointSearch, Progress, SearchOptions, joint_search
from fasthmr.acceleration.speed import speed_ratio
from fasthmr.benchmark.counters import count
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import open_weights, save_weights
from fasthmr.errors import UsageError
from fasthmr.reduction.eclm import weights_fingerprint
from fasthmr.reduction.self_mask import SelfMaskConfig, SelfMaskHead
from fasthmr.runtime.detect import Detector
from fasthmr.runtime.loading import DEFAULT_MODEL, is_file_name, load_model
from fasthmr.training.crop_batches import BatchSource, PictureBatches, RecordBatches
from fasthmr.training.heal import HealConfig, heal
from fasthmr.training.self_mask import SelfMaskTraining, train_self_mask
from fasthmr.zoo.registry import list_models

_log = logging.getLogger(__name__)

THROUGHPUT_BATCHES = (1, 8, 32)


@dataclass(frozen=True, kw_only=True)
class AccelerateConfig:
    """Settings of `accelerate_model`.

    Attributes:
        search: What is searched, and what is asked for.
        plan: Merge by this plan instead of searching.
        masks: See `frames.load_frames`. With "self", a small head on the model's own tokens learns to find
            the person, from the masks of records or from the meshes that the model recovers.
        labels: See `frames.load_frames`.
        detector: Finds people in pictures.
        held_out: Share of the pictures that only judges.
        people: Crops that layers are searched on.
        limit: Crops to read at most.
        heal_steps: Steps of distillation after merging (`training.heal`); 0 for none.
        heal_batch: Crops of a step.
        heal_data: Folder of rendered records to heal (and teach the self-mask head) on; None for the
            calibration part of the data.
        self_mask_steps: Steps of teaching the head that finds the person.
        time_s: Seconds of each throughput measurement.
    """

    search: SearchOptions = field(default_factory=SearchOptions)
    plan: MergePlan | None = None
    masks: str = "self"
    labels: Labels = "auto"
    detector: str | Path | Detector = "auto"
    held_out: float = 0.3
    people: int = 256
    limit: int = 2048
    heal_steps: int = 300
    heal_batch: int = 32
    heal_data: Path | None = None
    self_mask_steps: int = 200
    time_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels not in ("auto", "none"):
            raise UsageError(f"labels={self.labels}; use 'auto' or 'none'")
        if self.heal_steps < 0 or self.heal_batch < 1:
            raise UsageError(f"heal_steps={self.heal_steps} or heal_batch={self.heal_batch} is too small")
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out={self.held_out}; a share of the pictures between 0 and 1")
        if self.self_mask_steps < 1:
            raise UsageError(f"self_mask_steps={self.self_mask_steps}; at least 1")
        if self.people < 2:
            raise UsageError(f"people={self.people} crops are too few to search on")
        if self.heal_data is not None and not is_records(self.heal_data):
            raise UsageError(f"heal_data={self.heal_data}: no folder of rendered records")


@dataclass(frozen=True, kw_only=True)
class Accelerated:
    """What came out.

    Attributes:
        model: Merged, and healed if that was asked for.
        plan: What is merged in it.
        report: Numbers and figures.
    """

    model: nn.Module
    plan: MergePlan
    report: AccelerationReport


def accelerate(
    model: str | Path | nn.Module,
    frames: str | Path,
    *,
    max_error_mm: float | None = None,
    target_speedup: float = 2.2,
    tokens: int | None = None,
    heal_steps: int = 300,
    masks: str = "self",
    labels: Labels = "auto",
    detector: str | Path | Detector = "auto",
    body: BodyModel | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """A cheaper copy of a model: layers merged (ECLM), tokens merged around the person, and healed.

    Pictures need no labels: the unmerged model is then the judge. Part of them is held out, and says what the
    copy costs in accuracy.

    Args:
        model: Preset with weights, weight file, or a mesh model with ViT blocks.
        frames: Folder, glob or list of pictures with people, or a folder of rendered records.
        max_error_mm: Allowed rise of the mean joint error (without labels: mean distance to the joints of the
            unmerged model) before healing. None asks for speed instead.
        target_speedup: The speed-up to reach, as measured here, with the least error.
        tokens: Tokens to keep; None chooses.
        heal_steps: Steps of distillation to the unmerged model; 0 for none.
        masks: "self": the copy finds the person itself and is used as the model was; "ellipse", "true",
            "none", a folder with mask files, or an .onnx segmentation model: see
            `acceleration.frames.load_frames`.
        labels: "none" leaves true joints aside.
        detector: As for `Pipeline`.
        body: Joints of this body are compared; the free body if None.
        out: Folder for weights, plan and report; None writes nothing.

    Raises:
        UsageError: Options out of range, videos, or a model that cannot be merged.
        InputError: Pictures or masks that cannot be used.
    """
    config = AccelerateConfig(
        search=_asked(max_error_mm, target_speedup, tokens, masks),
        masks=masks,
        labels=labels,
        detector=detector,
        heal_steps=heal_steps,
        seed=seed,
    )
    return accelerate_model(model, frames, config, body=body, out=None if out is None else Path(out)).model


def _asked(
    max_error_mm: float | None, target_speedup: float, tokens: int | None, masks: str
) -> SearchOptions:
    return SearchOptions(
        max_error_mm=max_error_mm,
        target_speedup=target_speedup,
        keep=None if tokens is None else (tokens,),
        guided=masks != "none",
    )


def accelerate_model(
    model: str | Path | nn.Module,
    frames: str | Path,
    config: AccelerateConfig,
    *,
    body: BodyModel | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Accelerated:
    """As `accelerate`, with every setting, and with all that was found.

    Args:
        out: Folder for weights, plan, report and the log of the search: a search that was stopped goes on
            from its last trial when it is called again.
        progress: Called as the work goes on.

    Raises:
        UsageError: As for `accelerate`.
        InputError: As for `accelerate`.
    """
    name = _name(model)
    parts = ModelParts.of(load_model(DEFAULT_MODEL if model == "default" else model, "mesh").eval(), body)
    _check_fit(parts, config)
    report = progress or (lambda stage, done, total: None)
    report("reading", 0, 1)
    people = load_frames(
        frames,
        parts,
        masks=config.masks,
        labels=config.labels,
        detector=config.detector,
        limit=config.limit,
        seed=config.seed,
    )
    report("reading", 1, 1)
    calibration, held_out = people.split(config.held_out, config.seed)
    _log.info("searching on %s", calibration.describe())
    source = training_batches(parts, calibration, config)
    self_mask = learn_self_mask(parts, source, config, progress) if config.masks == "self" else None
    searched = None
    plan = config.plan
    if plan is None:
        judge = Judge(parts, calibration.rows(slice(config.people)))
        state = None if out is None else out / "search"
        searched = joint_search(judge, config.search, self_mask=self_mask, state_dir=state, progress=progress)
        plan = MergePlan(
            layers=searched.chosen.layers,
            tokens=searched.chosen.tokens,
            source=weights_fingerprint(parts.model),
        )
    merged = plan.fit(parts.model, self_mask)
    variants = [Variant(name="merged", model=merged)]
    if config.heal_steps and (plan.layers or plan.tokens):
        healed = heal_merged(merged, parts, source, config, progress)
        variants.append(Variant(name="merged, healed", model=healed))
    found = _report(name, parts, calibration, held_out, variants, plan, searched, config, report)
    result = Accelerated(model=variants[-1].model, plan=plan, report=found)
    if out is not None:
        _write(result, name, model, parts, held_out, out)
    return result


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
    tell = progress or (lambda stage, done, total: None)
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
    tell = progress or (lambda stage, done, total: None)
    return heal(
        merged,
        parts.model,
        source,
        HealConfig(steps=steps),
        progress=lambda step, terms: tell("healing", step + 1, steps),
    ).eval()


def _check_fit(parts: ModelParts, config: AccelerateConfig) -> None:
    """What does not fit shows before pictures are read."""
    if config.plan is not None:
        config.plan.fit(parts.model)
        if config.plan.source and config.plan.source != weights_fingerprint(parts.model):
            raise UsageError("the plan was found for other weights; give the model that it was found for")
    else:
        config.search.token_plans(parts.tokens, parts.depth)
    if config.heal_data is not None and parts.takes_camera:
        raise UsageError("rendered records tell no camera; heal models that take one on pictures")


def _report(
    name: str,
    parts: ModelParts,
    calibration: Frames,
    held_out: Frames,
    variants: list[Variant],
    plan: MergePlan,
    searched: JointSearch | None,
    config: AccelerateConfig,
    progress: Progress,
) -> AccelerationReport:
    progress("judging", 0, 1)
    before = Variant(name="unmerged", model=parts.model)
    rows = tuple(measure_variant(variant, parts, held_out) for variant in (before, *variants))
    final = variants[-1].model
    speeds = {
        size: speed_ratio(parts.model, final, batch_size=size, seconds=config.time_s)
        for size in THROUGHPUT_BATCHES
    }
    progress("judging", 1, 1)
    return AccelerationReport(
        model=name,
        calibration=calibration.describe(),
        held_out=held_out.describe(),
        rows=rows,
        plan=plan,
        depth=parts.depth,
        tokens=parts.tokens,
        before=count(parts.model),
        after=count(final),
        speeds=speeds,
        search=searched,
        heal_steps=config.heal_steps if len(variants) > 1 else 0,
        similarity=layer_similarity(parts, calibration),
    )


def save_merged(model: nn.Module, path: Path, *, name: str = "", source: str = "", licence: str = "") -> None:
    """Write a merged model as one file; `zoo.load_model` builds it again from that alone."""
    whole: Any = model
    note = {"config": config_to_json(whole.config), "source": source, "licence": licence}
    if name in list_models():
        note["preset"] = name
    save_weights(model, path, dtype=torch.float32, metadata={key: text for key, text in note.items() if text})


def _write(
    result: Accelerated, name: str, model: object, parts: ModelParts, held_out: Frames, out: Path
) -> None:
    licence = ""
    if isinstance(model, str | Path) and is_file_name(model):
        licence = open_weights(model).metadata.get("licence", "")
    save_merged(
        result.model, out / "model.safetensors", name=name, source=result.plan.source, licence=licence
    )
    result.plan.write(out / "plan.json")
    write_report(result.report, parts, result.model, held_out, out)


def _name(model: str | Path | nn.Module) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    if model == "default":
        return DEFAULT_MODEL
    return Path(model).name if is_file_name(model) else str(model)
