"""Strict loading of weights under published key names.

Every key of a file is either mapped to one of ours or ignored for a stated reason; every one of ours must be
there, with its shape and finite.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fasthmr.errors import CheckpointMismatch, UnsafeFileError

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor of a file under its name there, wrappers such as `state_dict` taken off."""

_MAX_LINES = 12
"""Keys that an error lists before it only counts the rest."""


@dataclass(frozen=True, kw_only=True)
class KeyTable:
    """A published layout of weights.

    Attributes:
        layout: What the layout is called in messages.
        renames: (pattern, replacement) from our key to the published one; the first pattern that matches the
            start of a key is applied. A key that none matches keeps its name.
        ignored: (pattern, reason) of published keys that the model has no use for.
        prepare: Applied to the tensors of a file before their names are looked up, for layouts that store one
            of our tensors in several pieces.
    """

    layout: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda state: state

    def published(self, key: str) -> str:
        """The published name of one of our keys."""
        for pattern, replacement in self.renames:
            renamed, count = re.subn(f"^{pattern}", replacement, key, count=1)
            if count:
                return renamed
        return key

    def reason_to_ignore(self, published_key: str) -> str | None:
        """Why a key of the file is not used, or None if it is not on the list."""
        return next((reason for pattern, reason in self.ignored if re.match(pattern, published_key)), None)


OWN_TABLE = KeyTable(layout="fasthmr")


@dataclass(frozen=True, kw_only=True)
class KeyMatch:
    """Keys of a file that fits a model.

    Attributes:
        mapped: From our key to that of the file.
        ignored: Keys of the file that are not used, with the reason for each.
    """

    mapped: dict[str, str]
    ignored: dict[str, str]

    def reasons(self) -> dict[str, int]:
        """How many keys are ignored for each reason."""
        return dict(sorted(Counter(self.ignored.values()).items()))


def match_keys(ours: Shapes, theirs: Shapes, table: KeyTable, model_name: str, hint: str = "") -> KeyMatch:
    """Find the place of every key; needs shapes only.

    Args:
        model_name: The model in messages.
        hint: What to do when the file does not fit.

    Raises:
        CheckpointMismatch: Keys are missing, unknown or of another shape.
    """
    wanted = {table.published(key): key for key in ours}
    ignored: dict[str, str] = {}
    problems: list[tuple[str, str, str]] = []
    for key, shape in theirs.items():
        if key in wanted:
            if shape != ours[wanted[key]]:
                problems.append((key, str(shape), str(ours[wanted[key]])))
        elif (reason := table.reason_to_ignore(key)) is not None:
            ignored[key] = reason
        else:
            problems.append((key, str(shape), "has no such key"))
    problems += [
        (key, "has no such key", str(ours[mine])) for key, mine in wanted.items() if key not in theirs
    ]
    if problems:
        raise CheckpointMismatch(_describe(problems, len(set(theirs) | set(wanted)), model_name, hint))
    return KeyMatch(mapped={mine: key for key, mine in wanted.items()}, ignored=ignored)


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in a tensor."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # both are NaN when anything is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def load_into(
    model: nn.Module, state: Mapping[str, Tensor], table: KeyTable, model_name: str
) -> dict[str, str]:
    """Copy weights into a model, all or nothing.

    Args:
        state: Tensors under published names; half precision is cast to the model's dtype.
        model_name: The model in messages.

    Returns:
        Ignored keys of the file with the reason for each.

    Raises:
        CheckpointMismatch: Keys are missing, unknown or of another shape.
        UnsafeFileError: A weight is not finite.
    """
    state = table.prepare(state)
    match = match_keys(shapes_of(model.state_dict()), shapes_of(state), table, model_name)
    mapped = {mine: state[key] for mine, key in match.mapped.items()}
    broken = [match.mapped[mine] for mine, tensor in mapped.items() if not is_finite(tensor)]
    if broken:
        raise UnsafeFileError(
            f"{len(broken)} of {len(mapped)} weights hold NaN or infinity, first {broken[0]}; "
            "the file is damaged or training diverged"
        )
    model.load_state_dict(mapped)
    for reason, count in match.reasons().items():
        logger.info("%s: %d keys not used (%s)", model_name, count, reason)
    return match.ignored


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _describe(problems: list[tuple[str, str, str]], total: int, model_name: str, hint: str) -> str:
    rows = sorted(problems)[:_MAX_LINES]
    key_width = max(len(key) for key, _, _ in rows)
    file_width = max(len(file) for _, file, _ in rows)
    lines = [f"{len(problems)} of {total} keys do not fit '{model_name}':"]
    lines += [f"  {key:<{key_width}}   file {file:<{file_width}}   model {mine}" for key, file, mine in rows]
    if len(problems) > len(rows):
        lines.append(f"  ... and {len(problems) - len(rows)} more")
    return "\n".join([*lines, hint] if hint else lines)
