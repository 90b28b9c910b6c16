"""Errors a user can meet. Each carries the exit code the command line ends with."""

from __future__ import annotations

from collections.abc import Sequence


class FastHMRError(Exception):
    """Base of all errors that name their own remedy; shown as one line without `--debug`."""

    exit_code = 1


class UsageError(FastHMRError, ValueError):
    """A wrong option, name or combination."""

    exit_code = 2


class InputError(FastHMRError):
    """A picture, video, boxes or annotation file that cannot be used."""

    exit_code = 3


class UnsafeFileError(FastHMRError):
    """A weight or body file that is unsafe, malformed or not finite."""

    exit_code = 4


class CheckpointMismatch(UnsafeFileError):
    """Weights whose keys or shapes do not fit the model."""


class ResourceError(FastHMRError):
    """Memory, disk or time is used up."""

    exit_code = 5


class PartialFailure(FastHMRError):
    """Some items of a run failed; the others are complete."""

    exit_code = 6


class ExportError(FastHMRError):
    """A model that cannot be exported, or whose exported form gives other numbers."""


class MissingExtra(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'fasthmr[{extra}]'")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """ " (did you mean ...?)" with the nearest known name, or nothing when none is near."""
    from difflib import get_close_matches

    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""
