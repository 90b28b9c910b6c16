"""What is merged, as a small file beside the weights: a source model and its plan make the merged model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.errors import InputError, UnsafeFileError, UsageError
from fasthmr.io.atomic import write_bytes
from fasthmr.models.reduced import reduce_model
from fasthmr.reduction.eclm import LayerMergePlan, weights_fingerprint
from fasthmr.reduction.self_mask import SelfMaskHead
from fasthmr.reduction.tome_schedule import TokenMergePlan

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """Layers and tokens to merge; None for none.

    Attributes:
        source: Fingerprint of the weights that it was found for; empty where that does not matter.
    """

    layers: LayerMergePlan | None = None
    tokens: TokenMergePlan | None = None
    source: str = ""

    def write(self, path: Path) -> Path:
        """Write it as JSON."""
        parts = {"layers": self.layers, "tokens": self.tokens}
        content = {
            name: None if part is None else json.loads(config_to_json(part)) for name, part in parts.items()
        }
        return write_bytes(path, json.dumps({**content, "source": self.source}, indent=1).encode())

    @staticmethod
    def read(path: Path) -> MergePlan:
        """Read what `write` wrote.

        Raises:
            InputError: There is no such file, or it holds no plan.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise InputError(f"{path}: more than {_MAX_BYTES >> 20} MB, not a plan")
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            texts = [content[name] for name in ("layers", "tokens")]
            layers, tokens = (None if part is None else config_from_json(json.dumps(part)) for part in texts)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UnsafeFileError) as error:
            raise InputError(f"{path}: not a plan that 'fasthmr accelerate' wrote ({error})") from error
        if not isinstance(layers, LayerMergePlan | None) or not isinstance(tokens, TokenMergePlan | None):
            raise InputError(f"{path}: not a plan that 'fasthmr accelerate' wrote")
        return MergePlan(layers=layers, tokens=tokens, source=str(content.get("source", "")))

    def apply(self, model: nn.Module, self_mask: SelfMaskHead | None = None) -> nn.Module:
        """The merged copy of a source model.

        Args:
            self_mask: Finds the person in place of masks.

        Raises:
            UsageError: The plan does not fit the model, or was found for other weights.
        """
        if self.source and self.source != weights_fingerprint(model):
            raise UsageError("the plan was found for other weights; give the model that it was found for")
        return self.fit(model, self_mask)

    def fit(self, model: nn.Module, self_mask: SelfMaskHead | None = None) -> nn.Module:
        """As `apply`, for whatever weights.

        Raises:
            UsageError: The plan does not fit the model.
        """
        try:
            guided = self.tokens is not None and self.tokens.guided
            head = self_mask if guided else None
            return reduce_model(model, layers=self.layers, tokens=self.tokens, self_mask=head)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"the plan does not fit this model: {error}") from error
