"""The published JSON schema of the YAML file; ``python -m serve_core.config.schema FILE`` writes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from serve_core.config.model import ServeFile


def json_schema() -> dict[str, Any]:
    """The schema, for editors and for checks without serve-core."""
    schema = ServeFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "serve-core application file"}


def json_schema_text() -> str:
    """The schema as the published file has it."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json_schema_text(), encoding="utf-8")
