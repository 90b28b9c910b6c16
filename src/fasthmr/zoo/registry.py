"""Preset name -> frozen configuration -> model with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from fasthmr.checkpoints.files import read_weights
from fasthmr.checkpoints.keymap import KeyTable, load_into
from fasthmr.errors import UsageError, did_you_mean

OWN_TABLE = KeyTable(layout="fasthmr")


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
        gmacs: Multiply-accumulates for one picture in billions as printed, or None.
        convention: "complete" counts all parameters and all products; "tables" counts as the papers' profiler
            does: no attention products, no bare parameters, but 4 per normalised element.
    """

    source: str
    params: float | None = None
    gmacs: float | None = None
    convention: Literal["complete", "tables"] = "complete"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the zoo.

    Attributes:
        name: What users call it.
        config: Makes its configuration.
        description: One line for listings.
        task: What the model gives: body meshes, 2D keypoints, or the intrinsics of a camera.
        layout: Key names of published checkpoints for it.
        trained_body: Body that its shape coefficients mean: the one that comes with the package, or SMPL.
        published: Counts to compare ours with.
    """

    name: str
    config: Callable[[], ModelConfig]
    description: str
    task: Literal["mesh", "pose", "intrinsics"] = "mesh"
    layout: KeyTable = OWN_TABLE
    trained_body: Literal["free", "smpl"] = "free"
    published: tuple[PublishedCount, ...] = ()


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
        checkpoint: Weights to load: a published file of this model, or one that fasthmr wrote.
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
    model: nn.Module = row.config().build()
    model.__dict__["trained_body"] = row.trained_body
    if source is not None:
        state, _ = read_weights(source)
        own_layout = not state.keys().isdisjoint(model.state_dict().keys())
        load_into(model, state, OWN_TABLE if own_layout else row.layout, name)
    return model.eval()
