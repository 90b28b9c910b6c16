"""METRO (arXiv 2012.09760), FastMETRO (arXiv 2207.13820) and TORE (arXiv 2211.10705), bodies and hands.

Names say family, size, trunk and reduction: `tore_fastmetro_l_r50_itp80` is FastMETRO-L with ResNet-50, GTR,
and ITP that keeps 80 % of the image tokens (the paper's "@20%"). Models of hands say so in the second word:
`metro_hand_r50`, `fastmetro_hand_l_r50`, `tore_hand_fastmetro_l_r50_itp80`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

from fasthmr.body.hand_points import HAND_POINTS
from fasthmr.checkpoints.tore import MESH_TABLE, preset_name
from fasthmr.encoders.registry import encoder_config
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig
from fasthmr.models.mesh import MeshModelConfig
from fasthmr.reduction.gtr import NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.zoo.registry import Preset, PublishedCount, register_preset

_HAND = MeshLevelsConfig(vertices=(195, 778))
_SIZES = {"s": 1, "m": 2, "l": 3}
_TRUNKS = {
    "r50": ("resnet50", 2048, "ResNet-50"),
    "hrnet_w64": ("hrnet_w64", 2048, "HRNet-W64"),
    "effnet_b0": ("efficientnet_b0", 1280, "EfficientNet-b0"),
}
"""Trunk in names: encoder, channels of its map, and what the papers call it."""

_WITHIN = 0.15
"""The paper's profiler rounds and leaves out otherwise than ours, by up to 0.1 G (HRNet-W64, FastMETRO)."""

_PUBLISHED: dict[str, tuple[str, float, float]] = {
    "metro_hrnet_w64": ("TORE, Table 1", 56.5, 27.5),
    "tore_metro_hrnet_w64": ("TORE, Table 1", 30.2, 0.8),
    "metro_r50": ("TORE, Table 1", 31.6, 27.5),
    "tore_metro_r50": ("TORE, Table 1", 5.4, 0.8),
    "fastmetro_l_hrnet_w64": ("TORE, Table 2", 35.7, 6.6),
    "tore_fastmetro_l_hrnet_w64": ("TORE, Table 2", 30.2, 0.7),
    "fastmetro_l_r50": ("TORE, Table 2", 10.9, 6.6),
    "tore_fastmetro_l_r50": ("TORE, Table 2", 5.4, 0.7),
    "fastmetro_s_r50": ("TORE, Table 2", 6.4, 2.2),
    "tore_fastmetro_s_r50": ("TORE, Table 2", 4.6, 0.3),
    "fastmetro_l_effnet_b0": ("TORE, Table 2", 7.1, 6.6),
    "tore_fastmetro_l_effnet_b0": ("TORE, Table 2", 1.7, 0.7),
    "tore_fastmetro_l_r50_itp80": ("TORE, Table 4", 5.3, 0.6),
    "tore_fastmetro_l_r50_itp50": ("TORE, Table 4", 5.1, 0.5),
    "tore_fastmetro_l_effnet_b0_itp80": ("TORE, Table 4", 1.6, 0.6),
    "tore_fastmetro_l_effnet_b0_itp50": ("TORE, Table 4", 1.4, 0.4),
}
"""GFLOPs as printed, of the model and of its transformers; they are multiply-accumulates."""


def _metro(trunk: str, hand: bool, gtr: bool) -> MeshModelConfig:
    encoder, channels, _ = _TRUNKS[trunk]
    head = MetroHeadConfig(context_dim=channels)
    if hand:
        head = MetroHeadConfig(
            context_dim=channels,
            cells=None,
            joints=HAND_POINTS,
            mesh=_HAND,
            hidden=(1024, 256, 64),
            camera_hidden=150,
            camera_reads_joints=True,
            masked_share=0.0,
        )
    regressor = NSRConfig() if gtr else None
    return MeshModelConfig(encoder=encoder_config(encoder), head=head, regressor=regressor)


def _fastmetro(
    size: str, trunk: str, hand: bool, gtr: bool, kept: int | None = None, parameters: bool = False
) -> MeshModelConfig:
    encoder, channels, _ = _TRUNKS[trunk]
    return MeshModelConfig(
        encoder=encoder_config(encoder),
        head=FastMetroHeadConfig(
            context_dim=channels,
            joints=HAND_POINTS if hand else 14,
            mesh=_HAND if hand else MeshLevelsConfig(),
            layers=_SIZES[size],
            learned_levels=0 if hand or gtr else 1,
            parameters=MeshParametersConfig() if parameters else None,
        ),
        tokens=None if kept is None else ITPConfig(keep_ratio=kept / 100),
        regressor=NSRConfig(layers=_SIZES[size]) if gtr else None,
    )


def _preset(name: str, config: partial[MeshModelConfig], description: str, hand: bool) -> Preset:
    source, whole, transformers = _PUBLISHED.get(name, ("", 0.0, 0.0))
    row = (
        PublishedCount(source=source, gmacs=whole, within=_WITHIN),
        PublishedCount(
            source=f"{source}, transformers", gmacs=transformers, part="transformers", within=_WITHIN
        ),
    )
    return Preset(
        name=name,
        config=config,
        description=f"{description}, {'hands' if hand else 'bodies'}",
        task="vertices",
        layout=MESH_TABLE,
        trained_body="mano" if hand else "smpl",
        published=row if source else (),
    )


def _metro_rows() -> Iterator[Preset]:
    for trunk, hand, gtr in product(("r50", "hrnet_w64"), (False, True), (False, True)):
        if (
            hand and gtr
        ):  # published neither as weights nor in the paper, and without an analogy for its camera
            continue
        name = preset_name("metro", trunk, hand=hand, gtr=gtr)
        text = f"METRO with {_TRUNKS[trunk][2]}{' and GTR' if gtr else ''}"
        yield _preset(name, partial(_metro, trunk, hand, gtr), text, hand)


def _fastmetro_rows() -> Iterator[Preset]:
    bodies = [("s", "r50", False), ("m", "r50", False), *(("l", trunk, False) for trunk in _TRUNKS)]
    for size, trunk, hand in [*bodies, *(("l", trunk, True) for trunk in _TRUNKS)]:
        text = f"FastMETRO-{size.upper()} with {_TRUNKS[trunk][2]}"
        name = preset_name("fastmetro", f"{size}_{trunk}", hand=hand, gtr=False)
        yield _preset(name, partial(_fastmetro, size, trunk, hand, False), text, hand)
        name = preset_name("fastmetro", f"{size}_{trunk}", hand=hand, gtr=True)
        gtr = partial(_fastmetro, size, trunk, hand, True)
        yield _preset(name, gtr, f"{text} and GTR", hand)
        for kept in (80,) if hand else (80, 50):
            reduced = f"{text}, GTR and ITP keeping {kept} %"
            yield _preset(f"{name}_itp{kept}", partial(gtr, kept), reduced, hand)
    for trunk in ("r50", "hrnet_w64"):
        text = f"FastMETRO-L with {_TRUNKS[trunk][2]} and pose and shape from the mesh"
        config = partial(_fastmetro, "l", trunk, False, False, parameters=True)
        yield _preset(f"fastmetro_l_{trunk}_smpl", config, text, False)


register_preset(*_metro_rows(), *_fastmetro_rows())
