"""Families of hierarchical encoders in files, and starting a whole or cut encoder from one.

Our key names are those of the official releases, also inside models (`backbone.encoder.*` in published ones).
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from fasthmr.checkpoints.files import read_weights
from fasthmr.checkpoints.keymap import KeyTable, Shapes, load_into, shapes_of
from fasthmr.checkpoints.layout import Layout
from fasthmr.checkpoints.swin_names import official_swin
from fasthmr.checkpoints.trunks import first_axis, numbered
from fasthmr.checkpoints.vmamba_names import official_vmamba
from fasthmr.encoders.groupmixformer import GroupMixFormerConfig
from fasthmr.encoders.registry import encoder_config, list_encoders
from fasthmr.encoders.swin import SwinConfig
from fasthmr.encoders.truncated import HierarchicalConfig, TruncatedConfig, TruncatedEncoder
from fasthmr.encoders.vmamba import VMambaConfig
from fasthmr.errors import CheckpointMismatch

logger = logging.getLogger(__name__)

_PREFIXES = ("backbone.encoder.", "encoder.encoder.", "backbone.", "encoder.", "")
"""Of encoders in files: in published and our own cut models, in published and our own whole ones, alone."""

_NOT_OF_WEIGHTS = {"drop_path", "image_size", "convention", "out_stages", "out_norm", "classes"}
"""Fields that do not change the weights of the stages."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Encoders of one kind in files.

    Attributes:
        name: What it is called in messages.
        config_type: Of its configurations.
        marks: Keys that tell its files, under official names.
        config: The configuration that shapes under official names say.
        stages: Patterns of keys that belong to a stage; the group is its number, from 0.
        exits: Pattern of keys between two stages; the group is the stage in front.
        norms: Pattern of norms of returned maps; the group is the stage.
        last_norm: Where the classifier's norm starts that of the last map, our name and that of the file.
        table: Keys of bare encoders and ImageNet classifiers.
        licence: Terms that go with the published weights.
    """

    name: str
    config_type: type
    marks: tuple[str, ...]
    config: Callable[[Shapes], HierarchicalConfig]
    stages: str
    exits: str | None = None
    norms: str | None = None
    last_norm: tuple[str, str] | None = None
    table: KeyTable
    licence: str

    def named(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tensors or shapes under official names."""
        return cast(Any, self.table.prepare)(state)

    def from_shapes(self, shapes: Shapes) -> HierarchicalConfig:
        """The configuration that shapes under official names say.

        Raises:
            CheckpointMismatch: Parts are missing, or do not fit each other.
        """
        try:
            return self.config(shapes)
        except KeyError as error:
            raise CheckpointMismatch(f"a {self.name} without the key {error}") from None
        except (IndexError, ValueError, TypeError, ArithmeticError) as error:
            raise CheckpointMismatch(f"not a usable {self.name} ({error})") from None

    def dropped(self, key: str, stages: int) -> str | None:
        """Why a key of a file has no place in an encoder of so many stages, or None."""
        if (found := re.match(self.stages, key)) and int(found[1]) >= stages:
            return f"stage {int(found[1]) + 1}, which is not built"
        if self.exits and (found := re.match(self.exits, key)) and int(found[1]) >= stages - 1:
            return f"leads to stage {int(found[1]) + 2}, which is not built"
        if self.norms and re.match(self.norms, key):
            return "norm of a map that is not returned"
        return None


def _swin_from_shapes(shapes: Shapes) -> SwinConfig:
    dim, _, patch, _ = shapes["patch_embed.proj.weight"]
    stages = range(numbered(shapes, "layers."))
    tables = [shapes[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in stages]
    hidden, window = shapes["layers.0.blocks.0.mlp.fc1.weight"][0], (math.isqrt(tables[0][0]) + 1) // 2
    out = tuple(i + 1 for i in stages if f"norm{i}.weight" in shapes)
    classes = first_axis(shapes, "head.weight")
    side = patch * window * 2 ** (len(stages) - 1)
    return SwinConfig(
        dim=dim,
        depths=tuple(numbered(shapes, f"layers.{i}.blocks.") for i in stages),
        heads=tuple(heads for _, heads in tables),
        window=window,
        image_size=(side, side) if classes else SwinConfig.image_size,
        convention="classification" if classes else "dense",
        out_stages=() if out == (len(stages),) else out,
        classes=classes,
        patch_size=patch,
        patch_norm="patch_embed.norm.weight" in shapes,
        mlp_ratio=_ratio(hidden, dim),
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in shapes,
    )


def _gmf_from_shapes(shapes: Shapes) -> GroupMixFormerConfig:
    stages = range(numbered(shapes, "groupmixformer_backbone."))
    widths = tuple(shapes[f"patch_embed_layers.{i}.norm.weight"][0] for i in stages)
    blocks = [f"groupmixformer_backbone.{i}.gma_stage." for i in stages]
    hidden = [shapes[f"{start}0.mlp.fc1.weight"][0] for start in blocks]
    classes = first_axis(shapes, "head.weight")
    return GroupMixFormerConfig(
        widths=widths,
        image_size=(224, 224) if classes else GroupMixFormerConfig.image_size,
        classes=classes,
        depths=tuple(numbered(shapes, start) for start in blocks),
        mlp_ratios=tuple(_ratio(*pair) for pair in zip(hidden, widths, strict=True)),
        qkv_bias=f"{blocks[0]}0.att.qkv.bias" in shapes,
    )


def _vmamba_from_shapes(shapes: Shapes) -> VMambaConfig:
    stages = range(numbered(shapes, "layers."))
    blocks = [f"layers.{i}.blocks." for i in stages]
    widths = tuple(shapes[f"{start}0.norm.weight"][0] for start in blocks)
    inner, hidden = (shapes[f"{blocks[0]}0.{part}.weight"][0] for part in ("op.in_proj", "mlp.fc1"))
    out = tuple(i + 1 for i in stages if f"outnorm{i}.weight" in shapes)
    classes = first_axis(shapes, "classifier.head.weight")
    return VMambaConfig(
        widths=widths,
        depths=tuple(numbered(shapes, start) for start in blocks),
        ssm_ratio=_ratio(inner, widths[0]),
        image_size=(224, 224) if classes else VMambaConfig.image_size,
        out_stages=() if out == (len(stages),) else out,
        out_norm=not classes,
        classes=classes,
        state=shapes[f"{blocks[0]}0.op.A_logs"][1],
        mlp_ratio=_ratio(hidden, widths[0]),
    )


def _ratio(hidden: int, width: int) -> float | int:
    return hidden // width if hidden % width == 0 else hidden / width


SWIN_TABLE = KeyTable(
    layout="Swin",
    ignored=(
        (r".*\.(attn_mask|relative_position_index)$", "computed from the sizes"),
        (r"(norm|head)\.", "classifier"),
    ),
    prepare=official_swin,
)

GMF_TABLE = KeyTable(layout="GroupMixFormer", ignored=((r"(norm4|head)\.", "classifier"),))

VMAMBA_TABLE = KeyTable(layout="VMamba", ignored=((r"classifier\.", "classifier"),), prepare=official_vmamba)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="Swin",
        config_type=SwinConfig,
        marks=("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"),
        config=_swin_from_shapes,
        stages=r"layers\.(\d+)\.",
        exits=r"layers\.(\d+)\.downsample\.",
        norms=r"norm(\d+)\.",
        last_norm=("norm3.", "norm."),
        table=SWIN_TABLE,
        licence="Swin weights: MIT",
    ),
    Family(
        name="GroupMixFormer",
        config_type=GroupMixFormerConfig,
        marks=("conv_stem.proj1.weight", "groupmixformer_backbone.0.gma_stage.0.att.qkv.weight"),
        config=_gmf_from_shapes,
        stages=r"(?:groupmixformer_backbone|patch_embed_layers)\.(\d+)\.",
        table=GMF_TABLE,
        licence="GroupMixFormer weights: the terms of their source",
    ),
    Family(
        name="VMamba",
        config_type=VMambaConfig,
        marks=("patch_embed.0.weight", "layers.0.blocks.0.op.x_proj_weight"),
        config=_vmamba_from_shapes,
        stages=r"layers\.(\d+)\.",
        exits=r"layers\.(\d+)\.downsample\.",
        norms=r"outnorm(\d+)\.",
        last_norm=("outnorm3.", "classifier.norm."),
        table=VMAMBA_TABLE,
        licence="VMamba weights: MIT",
    ),
)
"""A family is one row here."""


def family_of(shapes: Mapping[str, Any]) -> Family | None:
    """The family of a bare encoder under official names, or None."""
    return next((family for family in FAMILIES if all(mark in shapes for mark in family.marks)), None)


def same_weights(a: HierarchicalConfig, b: HierarchicalConfig) -> bool:
    """Whether the stages of two encoders have the same weights."""
    return type(a) is type(b) and all(
        getattr(a, field.name) == getattr(b, field.name)
        for field in fields(a)  # pyright: ignore[reportArgumentType]
        if field.name not in _NOT_OF_WEIGHTS
    )


def find_encoder(state: Mapping[str, Any]) -> tuple[str, Family, dict[str, Any]] | None:
    """A hierarchical encoder among tensors or shapes: the prefix of its keys, its family, and the encoder
    alone under official names; None where there is none."""
    for prefix in _PREFIXES:
        own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        for family in FAMILIES:
            named = family.named(own)
            if family_of(named) is family:
                return prefix, family, dict(named)
    return None


def init_hierarchical(encoder: nn.Module, file: Path | str) -> dict[str, str]:
    """Start a hierarchical encoder, whole or cut, from a published file or one that fasthmr wrote.

    It may hold the encoder alone (official, timm, mmpose), a whole model, or more stages than are built. The
    norm of the last of four maps starts from the classifier's; other norms of maps, and the matching layer,
    stay as they are where the file has none that fit.

    Returns:
        Keys of the file that were not used, stages that are not built among them, with the reason for each.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged or unsafe.
        CheckpointMismatch: The file holds another encoder; names those that it fits.
    """
    inner: Any = encoder.encoder if isinstance(encoder, TruncatedEncoder) else encoder
    state, _ = read_weights(file)
    found = find_encoder(state)
    if found is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise CheckpointMismatch(f"{file}: holds none of the hierarchical encoders ({names})")
    prefix, family, own = found
    _check_sizes(family, shapes_of(own), inner.config, file)
    wanted, stages = inner.state_dict(), len(inner.config.depths)
    if family.last_norm:
        ours, theirs = family.last_norm
        for key in wanted:
            if key.startswith(ours) and key.replace(ours, theirs) in own:
                own.setdefault(key, own[key.replace(ours, theirs)])
    unused = {key: why for key in own if key not in wanted and (why := family.dropped(key, stages))}
    kept = {key: tensor for key, tensor in own.items() if key not in unused}
    norms = {key: t for key, t in wanted.items() if family.norms and re.match(family.norms, key)}
    unused |= load_into(inner, {**norms, **kept}, family.table, Path(file).name)
    unused = {prefix + key: reason for key, reason in unused.items()}
    matched = _init_match(encoder, state, prefix.removesuffix("encoder."))
    unused |= {key: "not of the encoder" for key in state if not key.startswith((prefix, *matched))}
    for reason, count in sorted(Counter(unused.values()).items()):
        logger.info("%s: %d keys not used (%s)", file, count, reason)
    return unused


def _init_match(encoder: nn.Module, state: Mapping[str, Tensor], parent: str) -> list[str]:
    """Take over the matching layer of a cut model, if the file has one that fits; its keys."""
    ours = {key: t for key, t in encoder.state_dict().items() if key.startswith("match")}
    theirs = {key: state[parent + key] for key in ours if parent + key in state}
    if not theirs or shapes_of(theirs) != shapes_of(ours):
        return []
    encoder.load_state_dict({**encoder.state_dict(), **theirs})
    return [parent + key for key in theirs]


def _check_sizes(family: Family, shapes: Shapes, config: HierarchicalConfig, file: Path | str) -> None:
    """Refuse a file whose first stages are not those of an encoder.

    Raises:
        CheckpointMismatch: They are not.
    """
    try:
        theirs = family.from_shapes(shapes)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{file}: {error}") from None
    stages = len(config.depths)
    if len(theirs.depths) >= stages and same_weights(theirs.truncated(stages), config.truncated(stages)):
        return
    fitting = [name for name in list_encoders() if _can_start(encoder_config(name), theirs)]
    kinds = {kind.config_type: kind.name for kind in FAMILIES}
    raise CheckpointMismatch(
        f"{file}: holds {family.name} with widths {theirs.widths} and depths {theirs.depths}, the encoder "
        f"is {kinds.get(type(config), type(config).__name__)} with widths {config.widths} and depths "
        f"{config.depths}" + (f"; the file fits {', '.join(fitting)}" if fitting else "")
    )


def _can_start(config: Any, theirs: HierarchicalConfig) -> bool:
    """Whether an encoder is among the first stages of another."""
    inner = config.encoder if isinstance(config, TruncatedConfig) else config
    if not isinstance(inner, HierarchicalConfig) or len(inner.depths) > len(theirs.depths):
        return False
    return same_weights(inner, theirs.truncated(len(inner.depths)))


def _layout(family: Family) -> Layout:
    """Official files: ImageNet classifiers, or encoders alone."""
    return Layout(
        name=f"{family.name} (ImageNet)",
        table=family.table,
        matches=lambda shapes: family_of(family.named(shapes)) is family,
        config=lambda shapes, path: family.from_shapes(family.named(shapes)),
        preset=lambda shapes: None,
        licence=family.licence,
    )


FAMILY_LAYOUTS: tuple[Layout, ...] = tuple(map(_layout, FAMILIES))
