from __future__ import annotations

from tests.shell.ways import way

__all__ = ["way"]
