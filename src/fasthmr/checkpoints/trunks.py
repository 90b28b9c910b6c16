"""CNN trunks: ImageNet files, and the same networks as `backbone.` of METRO, FastMETRO and TORE files.

The names of our three trunks differ from each other, so that one set of renames serves them all.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import nn

from fasthmr.checkpoints.files import read_weights
from fasthmr.checkpoints.keymap import KeyTable, Shapes, load_into
from fasthmr.encoders.efficientnet import EfficientNetConfig
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.errors import CheckpointMismatch

TrunkConfig = ResNetConfig | HRNetConfig | EfficientNetConfig

_EFFICIENTNET = (
    (r"conv_(stem|head)\.", r"_conv_\1."),
    (r"norm_stem\.", "_bn0."),
    (r"norm_head\.", "_bn1."),
    (r"blocks\.(\d+)\.(\w+)\.", r"_blocks.\1._\2."),
)
_RESNET = (
    (r"stem\.0\.", "conv1."),
    (r"stem\.1\.", "bn1."),
    *((rf"stages\.{i}\.", f"layer{i + 1}.") for i in range(4)),
)
_SEQUENTIAL_RESNET = (
    (r"stem\.", ""),
    *((rf"stages\.{i}\.", f"{i + 4}.") for i in range(4)),
)
_IGNORED = ((r"(_fc|fc|classifier)\.", "ImageNet classifier"),)

IMAGENET_TRUNK_TABLE = KeyTable(layout="ImageNet CNN", renames=(*_RESNET, *_EFFICIENTNET), ignored=_IGNORED)
"""ResNet as torchvision names it, HRNet, EfficientNet."""

SEQUENTIAL_TRUNK_TABLE = KeyTable(
    layout="CNN trunk of METRO", renames=(*_SEQUENTIAL_RESNET, *_EFFICIENTNET), ignored=_IGNORED
)
"""The trunks inside METRO, FastMETRO and TORE: the parts of ResNet are numbered."""


def trunk_renames(ours: str = "encoder.", theirs: str = "backbone.") -> tuple[tuple[str, str], ...]:
    """Renames for the table of a model of the METRO family whose encoder is a trunk."""
    start = re.escape(ours)
    renames = tuple((start + pattern, theirs + name) for pattern, name in SEQUENTIAL_TRUNK_TABLE.renames)
    return (*renames, (start, theirs))


def trunk_ignored(theirs: str = "backbone.") -> tuple[tuple[str, str], ...]:
    """Keys of such a model that are not used."""
    return tuple((re.escape(theirs) + pattern, reason) for pattern, reason in _IGNORED)


def trunk_from_shapes(shapes: Shapes, prefix: str = "") -> TrunkConfig:
    """The trunk under a prefix, of an ImageNet file or a METRO-like model.

    Raises:
        CheckpointMismatch: There is none, or a part of it is missing.
    """
    if f"{prefix}_conv_stem.weight" in shapes:
        return _efficientnet_from_shapes(shapes, prefix)
    if any(key.startswith(f"{prefix}stage2.") for key in shapes):
        return hrnet_from_shapes(shapes, prefix)
    for stem, stages in (("0", "{}".format), ("conv1", "layer{}".format)):
        first = 4 if stem == "0" else 1
        depths = [numbered(shapes, f"{prefix}{stages(first + i)}.") for i in range(4)]
        if f"{prefix}{stem}.weight" in shapes and all(depths):
            one, two, three, four = depths
            return ResNetConfig(depths=(one, two, three, four), width=shapes[f"{prefix}{stem}.weight"][0])
    raise CheckpointMismatch(
        f"no ResNet, HRNet or EfficientNet among the keys '{prefix}*' "
        f"({prefix}0.weight, {prefix}conv1.weight and {prefix}_conv_stem.weight are missing)"
    )


def _efficientnet_from_shapes(shapes: Shapes, prefix: str) -> EfficientNetConfig:
    """EfficientNet; the strides of its blocks, which shapes do not tell, are those of b0."""
    stem, features = (shapes.get(f"{prefix}_conv_{part}.weight", ()) for part in ("stem", "head"))
    if len(stem) != 4 or len(features) != 4:
        raise CheckpointMismatch(f"not an EfficientNet: {prefix}_conv_stem or {prefix}_conv_head is missing")
    return EfficientNetConfig(stem=stem[0], features=features[0])


def hrnet_from_shapes(shapes: Shapes, prefix: str = "") -> HRNetConfig:
    """The HRNet under a prefix, with the layers of its classifier if the file has them, and the usual size.

    Raises:
        CheckpointMismatch: A part of it is missing.
    """
    branch = f"{prefix}stage2.0.branches.0."
    counted = {
        what: numbered(shapes, start)
        for what, start in (
            ("layer1", f"{prefix}layer1."),
            ("blocks", branch),
            *((stage, f"{prefix}{stage}.") for stage in ("stage2", "stage3", "stage4")),
        )
    }
    absent = [what for what, count in counted.items() if not count]
    if absent:
        raise CheckpointMismatch(f"not an HRNet: the file has no {', '.join(absent)}")
    config = HRNetConfig(
        width=first_axis(shapes, f"{branch}0.conv1.weight"),
        modules=(counted["stage2"], counted["stage3"], counted["stage4"]),
        blocks=counted["blocks"],
        bottlenecks=counted["layer1"],
        stem=first_axis(shapes, f"{prefix}conv1.weight"),
    )
    if f"{prefix}incre_modules.0.0.conv1.weight" not in shapes:
        return config
    return replace(config, features=first_axis(shapes, f"{prefix}final_layer.0.bias"), image_size=(224, 224))


def numbered(shapes: Shapes, start: str) -> int:
    """How many parts of a file are numbered after `start`."""
    pattern = re.compile(re.escape(start) + r"(\d+)\.")
    return len({found[1] for key in shapes if (found := pattern.match(key))})


def first_axis(shapes: Shapes, key: str) -> int:
    """Length of the first axis of a tensor, 0 where the file has no such tensor."""
    return next(iter(shapes.get(key, ())), 0)


def init_trunk(trunk: nn.Module, file: Path | str) -> dict[str, str]:
    """Start a trunk from its ImageNet file, or from a model of the METRO family that has it as `backbone.`.

    Returns:
        Keys of the file that were not used, with the reason for each.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged or unsafe.
        CheckpointMismatch: The file holds another trunk.
    """
    state, _ = read_weights(file)
    prefix = "backbone." if any(key.startswith("backbone.") for key in state) else ""
    own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    table = SEQUENTIAL_TRUNK_TABLE if "0.weight" in own else IMAGENET_TRUNK_TABLE
    ignored = load_into(trunk, own, table, Path(file).name)
    others = {key: "not of the trunk" for key in state if not key.startswith(prefix)}
    return {**others, **{prefix + key: reason for key, reason in ignored.items()}}
