from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from fasthmr.io.nal_units import is_damaged, length_size


def packed(*units: bytes, size: int = 4) -> bytes:
    return b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_whole_units_are_fine(size: int) -> None:
    packet = packed(b"\x65\0\0\3\0\7", b"\x41\1\0\0", size=size)
    assert not is_damaged(packet, size)
    assert not is_damaged(b"", size)


@pytest.mark.parametrize(
    "packet",
    [
        packed(b"\x65\1\0\0\0\7"),
        packed(b"\x65\1\0\0\1\7"),
        packed(b"\x65\1\0\0\2\7"),
        packed(b"\x65\1", b""),
        packed(b"\x65\1")[:-1],
        packed(b"\x65\1") + b"\0\0\1",
        bytes(64),
    ],
)
def test_what_no_encoder_writes(packet: bytes) -> None:
    assert is_damaged(packet, 4)


def test_only_units_with_lengths_are_looked_at() -> None:
    avcc = bytes([1, 100, 0, 30, 0xFF, 0xE1])
    assert length_size("h264", avcc) == 4
    assert length_size("h264", b"\0\0\0\1\x67\x64") is None
    assert length_size("h264", None) is None
    assert length_size("hevc", avcc) is None
    assert length_size("hevc", bytes([1]) + bytes(20) + b"\xfd") == 2
    assert length_size("mpeg4", avcc) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_encoders_write_whole_units(tmp_path: Path, name: str, codec: str) -> None:
    random = np.random.default_rng(0)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height = 96, 64
        for index in range(12):
            rgb = random.integers(0, 20 * index + 1, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb)))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        size = length_size(stream.codec_context.name, stream.codec_context.extradata)
        assert size == 4
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    assert len(packets) == 12 and not any(is_damaged(packet, size) for packet in packets)
