from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_core.config.model import OptionsModel, parse_memory
from serve_core.config.options import check_options
from serve_core.config.schema import json_schema, json_schema_text
from serve_core.errors import ConfigInvalidError
from serve_core.model.spec import DeploymentSpec, HealthPolicy, Resources
from serve_core.options import OPTION_NAMES

SCHEMA = Path(__file__).parents[3] / "docs" / "schema" / "serve-core.schema.json"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1k", 1000), ("512Mi", 512 * 2**20), ("1.5Gi", 3 * 2**29), ("2T", 2 * 10**12)],
)
def test_memory_is_parsed(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "1 Mi", "1mi", "1e9", "²"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of memory"):
        parse_memory(text)


def test_the_published_schema_is_fresh() -> None:
    assert SCHEMA.read_text() == json_schema_text(), f"run: python -m serve_core.config.schema {SCHEMA}"


def test_the_schema_refuses_unknown_keys_and_describes_every_key() -> None:
    schema = json_schema()
    assert json.loads(json_schema_text()) == schema
    for model in [schema, *schema["$defs"].values()]:
        assert model["additionalProperties"] is False
        assert all("description" in field for field in model["properties"].values())


def test_the_code_and_the_file_take_the_same_options() -> None:
    assert set(OptionsModel.model_fields) | {"name"} == OPTION_NAMES


def test_the_defaults_are_those_of_the_specification() -> None:
    options = check_options({}, where="test")
    spec = DeploymentSpec(name="A", import_path="m:A")
    plain = set(OptionsModel.model_fields) - {
        "cpus",
        "gpus",
        "memory",
        "resources",
        "health_check_period_s",
        "health_check_timeout_s",
        "health_check_failure_threshold",
    }
    for name in plain:
        assert getattr(options, name) == getattr(spec, name), name
    assert spec.resources == Resources(cpus=options.cpus, gpus=options.gpus, memory_bytes=options.memory)
    assert spec.health == HealthPolicy(
        period_s=options.health_check_period_s,
        timeout_s=options.health_check_timeout_s,
        failure_threshold=options.health_check_failure_threshold,
    )


def test_options_outside_of_a_file_are_checked_all_at_once() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        check_options({"num_replicas": -1, "env": {"A": 1}, "cpus": float("nan")}, where="deployment 'A'")
    assert {violation.field for violation in caught.value.violations} == {"num_replicas", "env.A", "cpus"}
    assert str(caught.value).startswith("deployment 'A' is not valid")
