"""`fasthmr models --json` beside tables that were counted on the original encoders, typed here anew."""

from __future__ import annotations

import json

import pytest

from fasthmr.cli import main

TRUNCATED = """
Swin-T-S2  1195842 384  663936  4.17  1.78  4.49  2.87 -
Swin-T-S3 12151242 384       0 14.46  4.17 14.78  5.26 -
Swin-T-S4 27517818 384 1180032 31.00  5.22 31.33  6.31 -
Swin-S-S2  1195842 384  663936  4.17  1.78  4.49  2.87 -
Swin-S-S3 33469146 384       0 35.78  9.10 36.10 10.19 -
Swin-S-S4 48835722 384 1180032 52.32 10.15 52.64 11.24 -
Swin-B-S2  2118744 512 1180160  5.65  3.10  6.45  4.28 -
Swin-B-S3 59436664 512       0 61.79 16.03 62.59 17.21 -
Swin-B-S4 86741176 512 2097664 91.20 17.88 91.99 19.06 -
GMF-T-S2   1687008 200  288200  4.21  2.32  3.85  3.28 -
GMF-T-S3   7768368 200       0 10.00  3.48  9.64  4.44 -
GMF-T-S4  10707672 200  192200 13.14  3.64 12.77  4.60 -
GMF-S-S2   1518848 320  461120  4.26  1.83  4.34  2.87 -
GMF-S-S3  16888352 320       0 19.17  4.79 19.25  5.84 -
GMF-S-S4  22099680 320  409920 24.79  5.07 24.87  6.12 -
GMF-B-S2   6955568 320  691520  9.93 13.03 10.01 14.07 -
GMF-B-S3  22351392 320       0 24.63 15.96 24.72 17.00 -
GMF-B-S4  45345312 320  614720 48.24 17.13 48.33 18.17 -
VM-T-S2    1200384 384  663936  4.17  1.63  4.49  2.72 0.035
VM-T-S3   14374272 384       0 16.68  4.02 17.00  5.11 0.059
VM-T-S4   29478528 384 1180032 32.97  4.80 33.29  5.89 0.062
VM-S-S2    1448640 384  663936  4.42  1.93  4.74  3.02 0.071
VM-S-S3   31276224 384       0 33.58  7.49 33.90  8.58 0.159
VM-S-S4   49377216 384 1180032 52.86  8.41 53.19  9.50 0.165
VM-B-S2    2556160 512 1180160  6.09  3.40  6.89  4.58 0.094
VM-B-S3   55400704 512       0 57.76 13.26 58.55 14.44 0.212
VM-B-S4   87530752 512 2097664 91.99 14.90 92.78 16.08 0.220
"""
"""Parameters of the encoder, channels of the matched map, parameters of the matching layer; millions of
parameters and billions of products with the SMPL decoder, then with the heat-map head; scan operations.
The millions contain a norm of the map that is used, which GroupMixFormer has not (`NORMED`)."""

PLAIN = """
S  21663744  384  23.97   4.50  55.71   4.96  24.29   5.59  21.72   4.65
B  85794816  768  88.25  17.16 122.20  18.04  89.99  18.52  85.91  17.46
L 303296512 1024 305.85  60.02 341.27  61.19 308.54  61.57 303.45  60.43
H 630912000 1280 633.56 124.10 670.46 125.55 637.21 125.83 631.11 124.61
"""
"""Parameters and channels of plain ViTs; millions and billions with the small and the large SMPL decoder,
with the classic and the simple heat-map head."""

FAMILIES = {"Swin": "swin", "GMF": "gmf", "VM": "vmamba"}
NORMED = ("Swin", "VM")  # the map that is used goes through a LayerNorm of its own
GMF_WIDTHS = {"T": (160, 200, 240), "S": (160, 320, 320), "B": (240, 320, 480)}  # others double by stage


def small_decoder(channels: int) -> int:
    return 2_305_565 + 384 * (channels - 384)


def classic_head(channels: int) -> int:
    return 16 * 256 * (channels + 256) + 4 * 256 + 17 * 257


Expected = tuple[str, int | None, int, str, str, str | None]
"""Preset, exact parameters where the table has them, parameters that the printed millions contain beyond
these, millions and billions as printed, scan operations."""


def expected_rows() -> list[Expected]:
    rows: list[Expected] = []
    for line in TRUNCATED.strip().splitlines():
        name, encoder, channels, match, hmr, hmr_g, hpe, hpe_g, scan = line.split()
        family, size, cut = name.split("-")
        preset = f"{FAMILIES[family]}_{size}_{cut}".lower()
        stages = int(cut[1])
        width = GMF_WIDTHS[size][stages - 2] if family == "GMF" else round(int(channels) * 2 ** (stages - 3))
        own, beyond = int(encoder) + int(match), 2 * width
        if family in NORMED:
            own, beyond = own + beyond, 0
        scanned = None if scan == "-" else scan
        rows.append((f"hmr2_{preset}", own + small_decoder(int(channels)), beyond, hmr, hmr_g, scanned))
        rows.append((f"vitpose_{preset}", own + classic_head(int(channels)), beyond, hpe, hpe_g, scanned))
    for line in PLAIN.strip().splitlines():
        size, encoder, channels, small, small_g, large, large_g, classic, classic_g, *simple = line.split()
        vit, width = f"vit_{size.lower()}", int(channels)
        usual_is_large = size == "H"
        names = (
            (f"hmr2_{vit}_small", f"hmr2_{vit}") if usual_is_large else (f"hmr2_{vit}", f"hmr2_{vit}_large")
        )
        rows.append((names[0], int(encoder) + small_decoder(width), 0, small, small_g, None))
        rows.append((names[1], None, 0, large, large_g, None))
        rows.append((f"vitpose_{vit}", int(encoder) + classic_head(width), 0, classic, classic_g, None))
        rows.append((f"vitpose_{vit}_simple", None, 0, simple[0], simple[1], None))
    return rows


@pytest.fixture(scope="module")
def printed() -> dict[str, dict]:
    """What the command writes."""
    with pytest.MonkeyPatch.context() as patch:
        pieces: list[str] = []
        patch.setattr("fasthmr.cli.sys.stdout.write", pieces.append)
        assert main(["models", "--json"]) == 0
    return {row["name"]: row for row in json.loads("".join(pieces))}


@pytest.mark.parametrize("row", expected_rows(), ids=lambda row: row[0])
def test_a_row_of_the_tables(printed: dict[str, dict], row: Expected) -> None:
    name, params, beyond, millions, billions, scan = row
    ours = printed[name]
    assert params in (None, ours["parameters"])
    assert f"{(ours['parameters'] + beyond) / 1e6:.2f}" == millions
    assert abs(ours["macs"] / 1e9 - float(billions)) <= 0.01
    assert scan in (None, f"{ours['scan_operations'] / 1e9:.3f}")
    assert (scan is None) == (ours["scan_operations"] == 0)


def test_every_model_of_the_tables_is_listed_once(printed: dict[str, dict]) -> None:
    names = [row[0] for row in expected_rows()]
    assert len(names) == len(set(names)) == 70 == 2 * 27 + 4 * 4
    exact = [row for row in expected_rows() if row[1] is not None]
    assert len(exact) == 62
    families = ("_swin_", "_gmf_", "_vmamba_", "_vit_")
    listed = [
        name
        for name in printed
        if name.startswith(("hmr2_", "vitpose_")) and any(f in name for f in families)
    ]
    assert sorted(listed) == sorted(names)


def test_large_decoder_and_simple_head_to_the_unit(printed: dict[str, dict]) -> None:
    assert printed["hmr2_vit_h"]["parameters"] == 630_912_000 + 39_547_037
    assert printed["hmr2_vit_s_large"]["parameters"] == 21_663_744 + 34_042_013
