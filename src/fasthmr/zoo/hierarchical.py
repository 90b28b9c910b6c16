"""HMR 2.0 and ViTPose with hierarchical encoders, cut after two, three or four stages (arXiv 2510.12660).

Names say task, family, size and the stages that are kept: `hmr2_swin_s_s3`, `vitpose_gmf_t_s2`. Heads are the
small decoder of the light HMR 2.0 family and the classic head of ViTPose.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

from fasthmr.checkpoints.truncated import TRUNCATED_HMR_TABLE, TRUNCATED_POSE_TABLE
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.truncated import TruncatedConfig
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.zoo.hmr import smpl_head
from fasthmr.zoo.registry import Preset, PublishedCount, register_preset

_FAMILIES = {"swin": "Swin", "gmf": "GroupMixFormer", "vmamba": "VMamba"}
"""Family in the names of encoders, and what the papers call it."""

Row = tuple[str, str, int, int, float, int, float]

_ROWS: tuple[Row, ...] = (
    ("swin", "t", 2, 4_165_727, 1.78, 4_486_995, 2.87),
    ("swin", "t", 3, 14_457_575, 4.17, 14_778_843, 5.26),
    ("swin", "t", 4, 31_004_951, 5.22, 31_326_219, 6.31),
    ("swin", "s", 2, 4_165_727, 1.78, 4_486_995, 2.87),
    ("swin", "s", 3, 35_775_479, 9.10, 36_096_747, 10.19),
    ("swin", "s", 4, 52_322_855, 10.15, 52_644_123, 11.24),
    ("swin", "b", 2, 5_654_133, 3.10, 6_450_537, 4.28),
    ("swin", "b", 3, 61_792_405, 16.03, 62_588_809, 17.21),
    ("swin", "b", 4, 91_195_605, 17.88, 91_992_009, 19.06),
    ("gmf", "t", 2, 4_210_117, 2.32, 3_848_377, 3.28),
    ("gmf", "t", 3, 10_003_277, 3.48, 9_641_537, 4.44),
    ("gmf", "t", 4, 13_134_781, 3.64, 12_773_041, 4.60),
    ("gmf", "s", 2, 4_260_957, 1.83, 4_344_657, 2.87),
    ("gmf", "s", 3, 19_169_341, 4.79, 19_253_041, 5.84),
    ("gmf", "s", 4, 24_790_589, 5.07, 24_874_289, 6.12),
    ("gmf", "b", 2, 9_928_077, 13.03, 10_011_777, 14.07),
    ("gmf", "b", 3, 24_632_381, 15.96, 24_716_081, 17.00),
    ("gmf", "b", 4, 48_241_021, 17.13, 48_324_721, 18.17),
    ("vmamba", "t", 2, 4_170_269, 1.63, 4_491_537, 2.72),
    ("vmamba", "t", 3, 16_680_605, 4.02, 17_001_873, 5.11),
    ("vmamba", "t", 4, 32_965_661, 4.80, 33_286_929, 5.89),
    ("vmamba", "s", 2, 4_418_525, 1.93, 4_739_793, 3.02),
    ("vmamba", "s", 3, 33_582_557, 7.49, 33_903_825, 8.58),
    ("vmamba", "s", 4, 52_864_349, 8.41, 53_185_617, 9.50),
    ("vmamba", "b", 2, 6_091_549, 3.40, 6_887_953, 4.58),
    ("vmamba", "b", 3, 57_756_445, 13.26, 58_552_849, 14.44),
    ("vmamba", "b", 4, 91_985_181, 14.90, 92_781_585, 16.08),
)
"""Family, size, stages; parameters and multiply-accumulates (G) with the SMPL decoder and with the heat-map
head, counted on the original encoders."""


def _encoder(name: str) -> TruncatedConfig:
    return cast(TruncatedConfig, encoder_config(name))


def _hmr(name: str) -> HMRConfig:
    encoder = _encoder(name)
    return HMRConfig(encoder=encoder, head=smpl_head(encoder.context_dim, "small"))


def _pose(name: str) -> PoseConfig:
    encoder = _encoder(name)
    return PoseConfig(encoder=encoder, head=HeatmapHeadConfig(context_dim=encoder.context_dim))


def _counted(params: int, gmacs: float) -> tuple[PublishedCount, ...]:
    source = "original encoders, counted"
    return (PublishedCount(source=source, params=params / 1e6, gmacs=gmacs, within=0.01),)


def _presets(row: Row) -> Iterator[Preset]:
    family, size, stages, hmr_params, hmr_gmacs, pose_params, pose_gmacs = row
    encoder = f"{family}_{size}_s{stages}"
    text = f"{_FAMILIES[family]}-{size.upper()}, {'all' if stages == 4 else f'the first {stages}'} stages"
    yield Preset(
        name=f"hmr2_{encoder}",
        config=partial(_hmr, encoder),
        description=f"HMR 2.0 with {text}, small decoder",
        layout=TRUNCATED_HMR_TABLE,
        trained_body="smpl",
        published=_counted(hmr_params, hmr_gmacs),
    )
    yield Preset(
        name=f"vitpose_{encoder}",
        config=partial(_pose, encoder),
        description=f"ViTPose with {text}, classic head",
        task="pose",
        layout=TRUNCATED_POSE_TABLE,
        published=_counted(pose_params, pose_gmacs),
    )


register_preset(*(preset for row in _ROWS for preset in _presets(row)))
