"""Triton is for Linux alone."""

from __future__ import annotations

import sys

collect_ignore = [] if sys.platform == "linux" else ["test_scan_triton.py"]
