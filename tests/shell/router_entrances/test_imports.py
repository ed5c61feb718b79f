"""What a router that nobody asks over HTTP does not import."""

from __future__ import annotations

import subprocess
import sys


def test_what_serves_http_is_not_there_before_its_first_caller() -> None:
    code = "import sys, router.__main__, router.app; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
