"""Damage in H.264 and HEVC that decoders pass over without a word, such as sectors of zeros."""

from __future__ import annotations

_LENGTH_PLACE = {"h264": 4, "hevc": 21}  # of the byte that tells it, ISO/IEC 14496-15
_FORBIDDEN = (b"\0\0\0", b"\0\0\1", b"\0\0\2")  # within a unit, ITU-T H.264, 7.4.1


def length_size(codec: str, extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit; None for other codecs, and where start codes divide units."""
    place = _LENGTH_PLACE.get(codec)
    if place is None or extradata is None or len(extradata) <= place or extradata[0] != 1:
        return None
    return (extradata[place] & 3) + 1


def is_damaged(packet: bytes, size: int) -> bool:
    """Whether the units of a packet do not fill it, or hold bytes that no encoder writes.

    Args:
        size: Of the lengths, see `length_size`.
    """
    place = 0
    while place < len(packet):
        start = place + size
        place = start + int.from_bytes(packet[start - size : start], "big")
        unit = packet[start:place].rstrip(b"\0")
        if place > len(packet) or not unit or any(bytes_ in unit for bytes_ in _FORBIDDEN):
            return True
    return False
