"""Shape checks for the whole package, and no network for any test."""

from __future__ import annotations

import os
import socket

import pytest

if os.environ.get("FASTHMR_SHAPE_CHECKS", "1") != "0":
    from jaxtyping import install_import_hook

    install_import_hook("fasthmr", "beartype.beartype")


_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: object) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = address[0] if isinstance(address, tuple) else address
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {host!r}; tests run without a network")
    _connect(self, address)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond this machine fail the test."""
    monkeypatch.setattr(socket.socket, "connect", _loopback_only)
