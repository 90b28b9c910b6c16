"""Swin and GroupMixFormer under their published names."""

from __future__ import annotations

from fasthmr.checkpoints.keymap import KeyTable

_COMPUTED = "computed from the sizes"

SWIN_TABLE = KeyTable(
    layout="Swin",
    ignored=(
        (r"layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)$", _COMPUTED),
        (r"(norm|head)\.", "classifier"),
    ),
)

GMF_TABLE = KeyTable(layout="GroupMixFormer", ignored=((r"(norm4|head)\.", "classifier"),))
