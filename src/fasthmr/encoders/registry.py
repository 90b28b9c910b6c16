"""Named encoder configurations."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from fasthmr.errors import UsageError, did_you_mean


@runtime_checkable
class EncoderConfig(Protocol):
    """What every encoder configuration offers: the size of its pictures, and `build`."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def build(self) -> Any:
        """The encoder, a module from pictures to feature maps."""
        ...


class Encoder(Protocol):
    """What every encoder offers besides being a module."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Feature maps, finest first."""
        ...


Factory = TypeVar("Factory", bound=Callable[[], EncoderConfig])

_ENCODERS: dict[str, Callable[[], EncoderConfig]] = {}


def register_encoder(factory: Factory, name: str | None = None) -> Factory:
    """Decorator: the function's name (or `name`) becomes the name of the configuration that it returns."""
    name = name or factory.__name__
    if name in _ENCODERS:
        raise ValueError(f"an encoder named '{name}' is registered already")
    _ENCODERS[name] = factory
    return factory


def encoder_config(name: str) -> EncoderConfig:
    """Configuration of a registered encoder.

    Raises:
        UsageError: There is none of that name; the message suggests the nearest.
    """
    if name not in _ENCODERS:
        raise UsageError(f"there is no encoder '{name}'{did_you_mean(name, list(_ENCODERS))}")
    return _ENCODERS[name]()


def list_encoders(pattern: str = "*") -> list[str]:
    """Names of registered encoders that fit a shell pattern, sorted."""
    return sorted(name for name in _ENCODERS if fnmatch(name, pattern))
