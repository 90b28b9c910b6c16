"""From a trained model and a folder of pictures to the same model at a fraction of its cost."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fasthmr.acceleration.candidates import SearchOptions
from fasthmr.acceleration.figures import layer_similarity
from fasthmr.acceleration.frames import Frames, Labels, load_frames
from fasthmr.acceleration.judge import Judge, predict_joints
from fasthmr.acceleration.learning import heal_merged, learn_self_mask, training_batches
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.report import AccelerationReport, write_report
from fasthmr.acceleration.search import JointSearch, Progress, joint_search, silent
from fasthmr.acceleration.settings import AccelerateConfig
from fasthmr.acceleration.speed import speed_ratio
from fasthmr.acceleration.variants import Variant, measure_variant
from fasthmr.benchmark.counters import count
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import open_weights, save_weights
from fasthmr.errors import UsageError
from fasthmr.reduction.eclm import weights_fingerprint
from fasthmr.runtime.detect import Detector
from fasthmr.runtime.loading import DEFAULT_MODEL, is_file_name, load_model
from fasthmr.zoo.registry import list_models, preset

_log = logging.getLogger(__name__)

THROUGHPUT_BATCHES = (1, 8, 32)


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
        frames: Folder, glob or list of pictures and videos of people, or a folder of rendered records.
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
        UsageError: Options out of range, or a model that cannot be merged.
        InputError: Pictures, videos or masks that cannot be used.
    """
    config = AccelerateConfig(
        search=SearchOptions.asked(
            max_error_mm=max_error_mm, target_speedup=target_speedup, tokens=tokens, masks=masks
        ),
        masks=masks,
        labels=labels,
        detector=detector,
        heal_steps=heal_steps,
        seed=seed,
    )
    return accelerate_model(model, frames, config, body=body, out=None if out is None else Path(out)).model


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
    model = _original(model)
    name = _name(model)
    parts = ModelParts.of(load_model(model, "mesh").eval(), body)
    _check_fit(parts, config)
    report = progress or silent
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


def _check_fit(parts: ModelParts, config: AccelerateConfig) -> None:
    """What does not fit shows before pictures are read."""
    if config.plan is not None:
        config.plan.apply(parts.model)
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
    unmerged = predict_joints(parts, held_out)
    rows = tuple(measure_variant(variant, parts, held_out, unmerged) for variant in (before, *variants))
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


def _original(model: str | Path | nn.Module) -> str | Path | nn.Module:
    """What a preset that is accelerated already was made from, since merging starts from there."""
    if isinstance(model, nn.Module):
        return model
    name = DEFAULT_MODEL if model == "default" else str(model)
    made_from = preset(name).made_from if name in list_models() else None
    if made_from is None:
        return DEFAULT_MODEL if model == "default" else model
    _log.warning("'%s' is accelerated already; starting from '%s', which it was made from", name, made_from)
    return made_from


def _name(model: str | Path | nn.Module) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    return Path(model).name if is_file_name(model) else str(model)
