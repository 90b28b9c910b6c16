"""How commands read lists, and tell results and progress."""

from __future__ import annotations

import json
import sys

from fasthmr.errors import UsageError


def write_json(content: object) -> None:
    """Results for programs go to the standard output."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def split(text: str) -> list[str]:
    """The parts of a list that is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers separated by commas.

    Raises:
        UsageError: They are something else; names the option.
    """
    try:
        return [int(part) for part in split(text)]
    except ValueError as error:
        raise UsageError(f"--{option} {text}: whole numbers separated by commas, such as 1,8") from error


def say(line: str) -> None:
    """Progress and errors go to the standard error stream."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def printable(text: object) -> str:
    """Control characters of file names as escapes, so that they cannot act on a terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text)
    )
