"""Options of a pipeline that exclude each other, or do not fit its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from fasthmr.errors import UsageError
from fasthmr.runtime.intrinsics import CHOICES, check_camera_options
from fasthmr.runtime.loading import is_file_name


def is_network_file(
    focal: float | None, fov_deg: float | None, calib: str | Path | None, intrinsics: str | Path
) -> bool:
    """Checks the camera options before anything heavy is loaded; whether they name an intrinsics network.

    Raises:
        UsageError: They exclude each other.
    """
    named = is_file_name(intrinsics) and intrinsics not in CHOICES
    check_camera_options(focal, fov_deg, calib, "network" if named else str(intrinsics))
    return named


def refuse_unused(model: str, given: Mapping[str, object]) -> None:
    """Options that a model of 2D keypoints cannot heed are not passed over in silence.

    Raises:
        UsageError: One is given.
    """
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise UsageError(f"'{model}' gives 2D keypoints, for which {' and '.join(unused)} mean nothing")


def check_hand(hand: str | None, reads_hands: bool, tells_sides: bool, model: str) -> bool | None:
    """Whether hands are left ones where their boxes do not say it; None for a model of people.

    Args:
        tells_sides: The file of boxes says left or right.

    Raises:
        UsageError: Sides for a model of people, or neither left nor right.
    """
    if hand not in (None, "left", "right"):
        raise UsageError(f"hand is '{hand}'; needed: 'left' or 'right'")
    if reads_hands:
        return hand == "left"
    if hand is not None or tells_sides:
        what = "the boxes say" if tells_sides else "hand says"
        raise UsageError(f"{what} left or right hand, and '{model}' reads people")
    return None


def name_of(model: str | Path | nn.Module) -> str:
    """What results call a model."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    return Path(model).name if is_file_name(model) else str(model)
