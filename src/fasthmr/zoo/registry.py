"""Preset name -> frozen configuration -> model with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from torch import nn

from fasthmr.checkpoints.files import open_weights
from fasthmr.checkpoints.keymap import OWN_TABLE, KeyTable
from fasthmr.checkpoints.loading import LoadPlan, build_model, plan_for_preset, plan_from_file
from fasthmr.errors import UsageError, did_you_mean

TrainedBody = Literal["free", "smpl", "smplx", "mano"]


@runtime_checkable
class ModelConfig(Protocol):
    """A frozen configuration that builds its model."""

    def build(self) -> Any:
        """The model, with fresh weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class PublishedCount:
    """Size and cost of a model as a publication states them.

    Attributes:
        source: Paper with table, or released code.
        params: Parameters in millions as printed, or None.
        gmacs: Multiply-accumulates for one picture or clip in billions as printed, or None.
        convention: "complete" counts all parameters and all products; "tables" counts as the papers' profiler
            does: no attention products, no bare parameters, but 4 per normalised element.
        part: What is counted: the whole model, or the transformers of a mesh head without the regressor.
        within: Difference in billions that the publication's own rounding and profiler leave; 0 where ours
            must come out as printed.
    """

    source: str
    params: float | None = None
    gmacs: float | None = None
    convention: Literal["complete", "tables"] = "complete"
    part: Literal["whole", "transformers"] = "whole"
    within: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the zoo.

    Attributes:
        name: What users call it.
        config: Makes its configuration.
        description: One line for listings.
        task: What the model gives: body meshes, vertices without a parametric body, 2D keypoints, points of
            the body's surface in 2D, the intrinsics of a camera, or the motion of a clip.
        layout: Key names of published checkpoints for it.
        trained_body: Body that its shape coefficients or vertices mean: the one that comes with the package,
            SMPL, SMPL-X, or MANO's hand.
        published: Counts to compare ours with.
        made_from: Preset that this one was accelerated from.
    """

    name: str
    config: Callable[[], ModelConfig]
    description: str
    task: Literal["mesh", "vertices", "pose", "dense", "intrinsics", "motion"] = "mesh"
    layout: KeyTable = OWN_TABLE
    trained_body: TrainedBody = "free"
    published: tuple[PublishedCount, ...] = ()
    made_from: str | None = None


_PRESETS: dict[str, Preset] = {}


def register_preset(*rows: Preset) -> None:
    """Add rows to the zoo.

    Raises:
        ValueError: A name is taken.
    """
    for row in rows:
        if row.name in _PRESETS:
            raise ValueError(f"a preset named '{row.name}' is registered already")
        _PRESETS[row.name] = row


def list_models(pattern: str = "*") -> list[str]:
    """Names of presets that fit a shell pattern, sorted."""
    return sorted(name for name in _PRESETS if fnmatch(name, pattern))


def preset(name: str) -> Preset:
    """The row of a preset.

    Raises:
        UsageError: There is none of that name; the message suggests the nearest.
    """
    if name not in _PRESETS:
        raise UsageError(
            f"there is no model '{name}'{did_you_mean(name, list(_PRESETS))}; `fasthmr models` lists all"
        )
    return _PRESETS[name]


def pretrained_file(name: str) -> Path | None:
    """Weights of a preset that come with the package, or None."""
    path = Path(str(files("fasthmr"))) / "assets" / f"{name}.safetensors"
    return path if path.is_file() else None


def create_model(name: str, checkpoint: Path | str | None = None, pretrained: bool = False) -> nn.Module:
    """Build a preset, in evaluation mode, with the preset's `trained_body` as an attribute.

    Args:
        name: One of `list_models()`.
        checkpoint: Weights to load: a published file of this model, or one that fasthmr wrote. Its encoder
            must be the preset's; what follows the encoder is built as the file has it.
        pretrained: Load the weights that come with the package. Without either, weights are random.

    Raises:
        UsageError: Unknown name, both sources of weights at once, or no weights in the package.
        UnsafeFileError: The file is damaged or unsafe.
        CheckpointMismatch: The file belongs to another model.
    """
    row = preset(name)
    if checkpoint is not None and pretrained:
        raise UsageError("give either checkpoint or pretrained=True, not both")
    source = checkpoint
    if pretrained:
        source = pretrained_file(name)
        if source is None:
            available = [other for other in list_models() if pretrained_file(other)]
            raise UsageError(
                f"no weights for '{name}' come with the package (assets/{name}.safetensors is missing); "
                f"give checkpoint=FILE, or use one of: {', '.join(available) or 'none'}"
            )
    config = row.config()
    if source is None:
        model: nn.Module = config.build()
    else:
        weights = open_weights(source, trusted=pretrained)
        model = build_model(plan_for_preset(weights, name, config, row.layout))
    model.__dict__["trained_body"] = row.trained_body
    return model.eval()


def load_model(path: Path | str) -> nn.Module:
    """The model of a weight file, published or written by fasthmr, in evaluation mode.

    What the model is comes from the file alone.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged or unsafe.
        CheckpointMismatch: The file has no known layout, or its keys are not those of the model it describes.
    """
    weights = open_weights(path)
    named = _PRESETS.get(weights.metadata.get("preset", ""))
    if named is not None and "config" not in weights.metadata:
        plan = plan_for_preset(weights, named.name, named.config(), named.layout)
    else:
        plan = plan_from_file(weights)
        named = _PRESETS.get(plan.preset or "")
    model = build_model(plan)
    said = weights.metadata.get("trained_body", "")
    model.__dict__["trained_body"] = said if said in get_args(TrainedBody) else _trained_body(plan, named)
    return model.eval()


def _trained_body(plan: LoadPlan, named: Preset | None) -> TrainedBody:
    """That of the preset; where the sizes are nobody's, of a preset with the same kind of configuration."""
    kind = type(plan.config)
    rows = [named] if named else [row for row in _PRESETS.values() if type(row.config()) is kind]
    return rows[0].trained_body if rows else "free"
