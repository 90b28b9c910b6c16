"""Kind `tore.cnn`: the CNN trunks of METRO, FastMETRO and TORE."""

from __future__ import annotations

import torch
from fill import case_input, filled_weights
from parity_lib import Case, Pair, Result, checker
from torch import Tensor

from fasthmr.checkpoints.keymap import load_into, shapes_of
from fasthmr.checkpoints.trunks import IMAGENET_TRUNK_TABLE, SEQUENTIAL_TRUNK_TABLE, trunk_from_shapes
from fasthmr.encoders.efficientnet import EfficientNet
from fasthmr.encoders.hrnet import HRNet
from fasthmr.encoders.resnet import ResNet


@checker("tore.cnn")
@torch.no_grad()
def check_cnn(case: Case) -> Result:
    meta = case.meta
    weights = filled_weights(meta)
    with torch.device("meta"):
        trunk = trunk_from_shapes(shapes_of(weights)).build()
    trunk.to_empty(device="cpu")
    load_into(
        trunk, weights, SEQUENTIAL_TRUNK_TABLE if "0.weight" in weights else IMAGENET_TRUNK_TABLE, case.case
    )
    trunk.eval()
    parts: dict[str, Tensor] = {}
    if isinstance(trunk, HRNet):
        for number in (2, 3, 4):
            _note_stage(trunk, number, parts)
    maps = trunk(case_input(meta, case.tensors, "images"))
    result: Result = dict(parts)
    if isinstance(trunk, HRNet | ResNet):
        result["output/features"] = maps[-1]
    if isinstance(trunk, ResNet):
        result |= {f"mid/after_{i}": maps[i - 4].mean((2, 3)) for i in (5, 6)}
    if isinstance(trunk, EfficientNet):
        *_, third, fourth, features = maps
        result |= {"output/reduction_6": features, "mid/reduction_4": fourth}
        result["mid/reduction_3_mean"] = third.mean((2, 3))
    unused = getattr(trunk, "unused_published_params", 0)
    result["num_params"] = Pair(
        actual=sum(p.numel() for p in trunk.parameters()) + unused,
        expected=meta["num_params"],
        tolerance={"exact": True},
    )
    return result


def _note_stage(trunk: HRNet, number: int, parts: dict[str, Tensor]) -> None:
    """Keep the maps that a stage returns."""

    def note(module: torch.nn.Module, inputs: tuple, maps: list[Tensor]) -> None:
        parts.update({f"mid/stage{number}_branch{i}": x for i, x in enumerate(maps)})

    trunk.get_submodule(f"stage{number}").register_forward_hook(note)
