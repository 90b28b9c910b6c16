"""Every published layout, and what to say about files that have none of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from fasthmr.checkpoints.camerahmr import (
    CAMERAHMR_LAYOUT,
    CAMERAHMR_SMPLX_LAYOUT,
    DENSE_KEYPOINTS_LAYOUT,
    HUMAN_FOV_LAYOUT,
)
from fasthmr.checkpoints.hierarchical import FAMILY_LAYOUTS
from fasthmr.checkpoints.hmr2 import HMR2_LAYOUT
from fasthmr.checkpoints.keymap import KeyTable
from fasthmr.checkpoints.layout import Layout, Shapes
from fasthmr.checkpoints.mld import MLD_DENOISER_LAYOUT, MLD_VAE_LAYOUT
from fasthmr.checkpoints.plain_vit import ENCODER_LAYOUT, PLAIN_VIT_LAYOUT
from fasthmr.checkpoints.tore import MESH_LAYOUT
from fasthmr.checkpoints.truncated import SWIN_POSE_LAYOUT, TRUNCATED_HMR_LAYOUT, TRUNCATED_POSE_LAYOUT
from fasthmr.checkpoints.vitpose import VITPOSE_LAYOUT
from fasthmr.errors import CheckpointMismatch

LAYOUTS: tuple[Layout, ...] = (
    HMR2_LAYOUT,
    CAMERAHMR_LAYOUT,
    CAMERAHMR_SMPLX_LAYOUT,
    DENSE_KEYPOINTS_LAYOUT,
    HUMAN_FOV_LAYOUT,
    VITPOSE_LAYOUT,
    TRUNCATED_HMR_LAYOUT,
    TRUNCATED_POSE_LAYOUT,
    SWIN_POSE_LAYOUT,
    MESH_LAYOUT,
    MLD_VAE_LAYOUT,
    MLD_DENOISER_LAYOUT,
    ENCODER_LAYOUT,
    PLAIN_VIT_LAYOUT,
    *FAMILY_LAYOUTS,
)
"""The first that matches decides."""

_MAX_GROUPS = 8


_ODD = (KeyError, IndexError, ValueError, TypeError)
"""What unpacking shapes that are not those of a layout raises."""


def find_layout(shapes: Shapes) -> Layout | None:
    """The layout of a file, or None."""
    for layout in LAYOUTS:
        try:
            if layout.matches(shapes):
                return layout
        except _ODD:
            continue
    return None


def config_of(layout: Layout, shapes: Shapes, path: Path) -> Any:
    """The configuration that a file says.

    Raises:
        CheckpointMismatch: A key is missing or its shape makes no sense.
    """
    try:
        return layout.config(shapes, path)
    except KeyError as error:
        raise CheckpointMismatch(f"{path}: {layout.name} without the key {error}") from None
    except _ODD as error:
        raise CheckpointMismatch(f"{path}: not a usable file of {layout.name} ({error})") from None


def layout_of_table(table: KeyTable) -> Layout | None:
    """The layout that a key table belongs to, or None."""
    return next((layout for layout in LAYOUTS if layout.table is table), None)


def suggest(shapes: Shapes) -> str:
    """Remedy for a file that does not fit a model: what it is instead, or an empty string."""
    layout = find_layout(shapes)
    if layout is None:
        return ""
    preset = layout.preset(shapes)
    return f"The file is {layout.name}" + (f'; try create_model("{preset}").' if preset else ".")


def unknown_layout(shapes: Shapes, path: Path) -> CheckpointMismatch:
    """The error for a file of no known layout: its keys by their first part, and the nearest layouts."""
    groups = Counter(key.split(".")[0] for key in shapes)
    shown = [f"{name}.* ({count})" if count > 1 else name for name, count in groups.most_common(_MAX_GROUPS)]
    rest = f" and {len(groups) - len(shown)} more" if len(groups) > len(shown) else ""
    nearest = sorted(LAYOUTS, key=lambda layout: -_likeness(layout, groups))[:3]
    expected = []
    for layout in nearest:
        try:
            config_of(layout, shapes, path)
            lacks = ""
        except CheckpointMismatch as error:
            lacks = f"; {str(error).removeprefix(f'{path}: ')}" if _likeness(layout, groups) else ""
        expected.append(f"{layout.name}: {', '.join(sorted(_first_parts(layout)))}{lacks}")
    return CheckpointMismatch(
        f"{path}: {len(shapes)} tensors of no known layout: {', '.join(shown)}{rest}.\n"
        + "\n".join(f"  {line}" for line in ["Nearest layouts and the keys they have:", *expected])
    )


def _first_parts(layout: Layout) -> set[str]:
    """First parts of the published keys that the table of a layout names."""
    named = [replacement for _, replacement in layout.table.renames]
    named += [re.sub(r"\\(?=\W)", "", pattern) for pattern, _ in layout.table.ignored]
    parts = {re.split(r"[.\\$(|]", name)[0] for name in named}
    return {f"{part}.*" for part in parts if part}


def _likeness(layout: Layout, groups: Counter[str]) -> float:
    """Share of the file's keys whose first part the layout knows."""
    known = {part.removesuffix(".*") for part in _first_parts(layout)}
    return sum(count for name, count in groups.items() if name in known) / max(groups.total(), 1)
