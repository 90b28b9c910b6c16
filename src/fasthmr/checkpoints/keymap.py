"""Strict loading of weights under published key names.

Every key of a file is either mapped to one of ours or ignored for a stated reason; every one of ours must be
there, with its shape and finite.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fasthmr.errors import CheckpointMismatch, UnsafeFileError

logger = logging.getLogger(__name__)

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
        hint: Remedy that the tensors of a file suggest when they do not fit, or an empty string.
    """

    layout: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    hint: Callable[[Mapping[str, Tensor]], str] = lambda _: ""

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
    ours = model.state_dict()
    wanted = {table.published(key): key for key in ours}
    ignored: dict[str, str] = {}
    problems: list[tuple[str, str, str]] = []
    for key, tensor in state.items():
        if key in wanted:
            expected = ours[wanted[key]]
            if tensor.shape != expected.shape:
                problems.append((key, _shape(tensor), _shape(expected)))
        elif (reason := table.reason_to_ignore(key)) is not None:
            ignored[key] = reason
        else:
            problems.append((key, _shape(tensor), "has no such key"))
    problems += [
        (key, "has no such key", _shape(ours[mine])) for key, mine in wanted.items() if key not in state
    ]
    if problems:
        raise CheckpointMismatch(
            _describe(problems, len(set(state) | set(wanted)), model_name, table.hint(state))
        )
    mapped = {mine: state[key] for key, mine in wanted.items()}
    broken = [
        table.published(key) for key, tensor in mapped.items() if not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise UnsafeFileError(
            f"{len(broken)} of {len(mapped)} weights hold NaN or infinity, first {broken[0]}; "
            "the file is damaged or training diverged"
        )
    model.load_state_dict(mapped)
    for reason in sorted(set(ignored.values())):
        count = sum(value == reason for value in ignored.values())
        logger.info("%s: %d keys not used (%s)", model_name, count, reason)
    return ignored


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _describe(problems: list[tuple[str, str, str]], total: int, model_name: str, hint: str) -> str:
    rows = sorted(problems)[:_MAX_LINES]
    key_width = max(len(key) for key, _, _ in rows)
    file_width = max(len(file) for _, file, _ in rows)
    lines = [f"{len(problems)} of {total} keys do not fit '{model_name}':"]
    lines += [f"  {key:<{key_width}}   file {file:<{file_width}}   model {mine}" for key, file, mine in rows]
    if len(problems) > len(rows):
        lines.append(f"  ... and {len(problems) - len(rows)} more")
    return "\n".join([*lines, hint] if hint else lines)
