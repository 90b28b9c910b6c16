"""From a weight file to its model: which configuration it needs, and the model filled with its weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from fasthmr.checkpoints.config_json import config_from_json
from fasthmr.checkpoints.files import DTYPES, WeightFile
from fasthmr.checkpoints.keymap import (
    OWN_TABLE,
    KeyMatch,
    KeyTable,
    Shapes,
    is_finite,
    match_keys,
    shapes_of,
)
from fasthmr.checkpoints.layouts import config_of, find_layout, layout_of_table, suggest, unknown_layout
from fasthmr.encoders.registry import encoder_config, list_encoders
from fasthmr.errors import CheckpointMismatch, UnsafeFileError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How a file becomes a model; made from names and shapes, before any weights are read.

    Attributes:
        config: Configuration of the model.
        outline: Our keys with tensors of the file's number types and shapes, but without memory.
        layout: What the layout of the file is called in messages.
        preset: The preset that the file belongs to, or None.
        licence: Terms that go with the weights.
    """

    weights: WeightFile
    config: Any
    table: KeyTable
    match: KeyMatch
    outline: dict[str, Tensor]
    layout: str
    preset: str | None
    licence: str

    def tensors(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Weights in the file's number type by our keys, one at a time.

        Raises:
            UnsafeFileError: A weight is not finite, or the file ends too early.
        """
        with _reading(self.weights, self.table) as read:
            for mine in keys:
                theirs = self.match.mapped[mine]
                tensor = read(theirs)
                if not is_finite(tensor):
                    raise UnsafeFileError(
                        f"{self.weights.path}: '{theirs}' holds NaN or infinity; "
                        "the file is damaged or training diverged"
                    )
                yield mine, tensor


def plan_from_file(weights: WeightFile) -> LoadPlan:
    """What the file alone says.

    Raises:
        CheckpointMismatch: It has no known layout, or its keys are not those of the model it describes.
        UnsafeFileError: It claims a configuration that is none.
    """
    preset, layout = weights.metadata.get("preset"), find_layout(weights.shapes)
    if "config" in weights.metadata:
        config, table = config_from_json(weights.metadata["config"]), OWN_TABLE
        name, licence = "fasthmr", weights.metadata.get("licence", "")
    elif layout is not None:
        config, table = config_of(layout, weights.shapes, weights.path), layout.table
        name, licence = layout.name, layout.licence
        preset = layout.preset(weights.shapes) if _has_known_encoder(config) else None
    else:
        raise unknown_layout(weights.shapes, weights.path)
    match, outline = _match(config, weights, table, preset or name, "")
    return LoadPlan(
        weights=weights,
        config=config,
        table=table,
        match=match,
        outline=outline,
        layout=name,
        preset=preset,
        licence=licence,
    )


def plan_for_preset(weights: WeightFile, name: str, config: Any, table: KeyTable) -> LoadPlan:
    """How the file fits a preset. Its encoder must be the preset's; what follows is built as the file has it.

    Args:
        config: Configuration of the preset.
        table: Key names of published files for it.

    Raises:
        CheckpointMismatch: The file belongs to another model; names the keys, and the preset that fits.
        UnsafeFileError: It claims a configuration that is none.
    """
    own = _is_own(weights, config)
    layout = None if own else layout_of_table(table)
    table = OWN_TABLE if own else table
    for candidate in _candidates(weights, config, layout, own):
        try:
            match, outline = _match(candidate, weights, table, name, "")
        except CheckpointMismatch:
            continue
        return LoadPlan(
            weights=weights,
            config=candidate,
            table=table,
            match=match,
            outline=outline,
            layout=layout.name if layout else table.layout,
            preset=name,
            licence=layout.licence if layout else weights.metadata.get("licence", ""),
        )
    told = weights.metadata.get("preset")
    hint = f'The file says it is "{told}".' if told else suggest(weights.shapes)
    _match(config, weights, table, name, hint)
    raise AssertionError("a file that fits was refused")


def build_model(plan: LoadPlan) -> nn.Module:
    """The model of a plan with its weights, in the number types of a new model.

    Made without memory first, so that nothing is initialised twice.

    Raises:
        UnsafeFileError: A weight is not finite, or the file ends too early.
    """
    model = build_empty(plan.config)
    dtypes = {key: tensor.dtype for key, tensor in model.state_dict().items()}
    state = {key: tensor.to(dtypes[key]) for key, tensor in plan.tensors(plan.outline)}
    model.load_state_dict(state, assign=True)
    if _has_empty(model):  # what is computed when a model is made, and not stored with it
        model = plan.config.build()
        model.load_state_dict(state)
    for reason, count in plan.match.reasons().items():
        logger.info("%s: %d keys not used (%s)", plan.weights.path, count, reason)
    return model


def build_empty(config: Any) -> nn.Module:
    """A model whose tensors have shapes and number types but no memory (the device "meta")."""
    with torch.device("meta"), _NoRandomNumbers():
        return config.build()


@no_type_check  # runs for every operation
class _NoRandomNumbers(TorchFunctionMode):
    """Leaves out the drawing of initial weights; on "meta" it costs seconds of imports and gives nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init" or func.__name__ in ("normal_", "uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _has_known_encoder(config: Any) -> bool:
    """Whether the encoder, if there is one, is one of those that have names."""
    encoder = getattr(config, "encoder", None)
    return encoder is None or encoder in map(encoder_config, list_encoders())


def _candidates(weights: WeightFile, config: Any, layout: Any, own: bool) -> Iterator[Any]:
    """Configurations to try: the preset's encoder with the rest as the file says, then the preset's own.

    Where the name of a preset tells every size (`fixed_by_name`), its own is the only one.
    """
    said = None
    if getattr(config, "fixed_by_name", False) and layout is not None:
        yield config
        return
    if own and "config" in weights.metadata:
        said = config_from_json(weights.metadata["config"])
    elif layout is not None and layout.matches(weights.shapes):
        try:
            said = config_of(layout, weights.shapes, weights.path)
        except CheckpointMismatch as error:
            logger.info("%s", error)
    if type(said) is type(config) and is_dataclass(said):
        if "encoder" in {field.name for field in fields(said)}:
            try:
                yield replace(said, encoder=config.encoder)  # pyright: ignore[reportArgumentType]
            except ValueError as error:
                logger.info("%s: %s", weights.path, error)
        else:
            yield said
    yield config


def _is_own(weights: WeightFile, config: Any) -> bool:
    """Whether the keys are ours; those of the preset decide where the file does not say."""
    if "config" in weights.metadata:
        return True
    published = find_layout(weights.shapes)
    return published is None and not weights.shapes.keys().isdisjoint(_outline(config, weights))


def _match(
    config: Any, weights: WeightFile, table: KeyTable, name: str, hint: str
) -> tuple[KeyMatch, dict[str, Tensor]]:
    """Place of every key, and the tensors of the file without memory under our keys."""
    prepared = table.prepare(_empty(weights))
    ours = _outline(config, weights)
    try:
        match = match_keys(ours, shapes_of(prepared), table, name, hint)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{weights.path}: {error}") from None
    return match, {mine: prepared[theirs] for mine, theirs in match.mapped.items()}


def _outline(config: Any, weights: WeightFile) -> Shapes:
    """Shapes of the weights of a model, without making it.

    Raises:
        CheckpointMismatch: It has far more parts than the file has tensors; a file may claim any depth.
    """
    allowed, made = 1000 + 20 * len(weights.tensors), 0

    def count(module: nn.Module, name: str, part: nn.Module | None) -> None:
        nonlocal made
        made += 1
        if made > allowed:
            raise CheckpointMismatch(
                f"{weights.path}: {len(weights.tensors)} tensors do not fill the model that it describes"
            )

    hook = register_module_module_registration_hook(count)
    try:
        return shapes_of(build_empty(config).state_dict())
    except (ValueError, RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise CheckpointMismatch(f"{weights.path}: describes a model that cannot be made ({error})") from None
    finally:
        hook.remove()


def _empty(weights: WeightFile) -> dict[str, Tensor]:
    """The tensors of a file without their numbers."""
    return {
        key: torch.empty(tensor.shape, dtype=DTYPES[tensor.code], device="meta")
        for key, tensor in weights.tensors.items()
    }


@contextmanager
def _reading(weights: WeightFile, table: KeyTable) -> Iterator[Any]:
    """A function from a key to its tensor; everything is read at once only where a layout joins tensors."""
    empty = _empty(weights)
    with weights.reading() as read:
        if table.prepare(empty) is empty:
            yield read
        else:
            yield dict(table.prepare({key: read(key) for key in weights.tensors})).__getitem__


def _has_empty(model: nn.Module) -> bool:
    """Whether a tensor of the model, registered or not, still has no memory."""
    tensors = [tensor for module in model.modules() for tensor in vars(module).values()]
    tensors += [*model.parameters(), *model.buffers()]
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors)
