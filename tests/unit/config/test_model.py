from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from serve_core.config.actor import ActorModel
from serve_core.config.fields import parse_memory
from serve_core.config.gang import BundleModel, GangModel
from serve_core.config.model import OptionsModel
from serve_core.config.options import check_options
from serve_core.config.schema import json_schema, json_schema_text
from serve_core.deployment_actor import DeploymentActor
from serve_core.errors import ConfigInvalidError
from serve_core.model.actor import ActorSpec
from serve_core.model.gang import GangPolicy
from serve_core.model.health import HealthPolicy
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, RolloutPolicy
from serve_core.options import OPTION_NAMES, BundleOptions, GangOptions
from serve_core.specs import make_spec

HEALTH_OPTIONS = ("readiness_period_s", "heartbeat_period_s", "suspect_after_missed", "lost_after_missed")
PARTS = ("gang", "bundles", "actors")
ROLLOUT_OPTIONS = tuple(field.name for field in fields(RolloutPolicy))
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
        *HEALTH_OPTIONS,
        *ROLLOUT_OPTIONS,
        *PARTS,
    }
    for name in plain:
        assert getattr(options, name) == getattr(spec, name), name
    assert spec.resources == Resources(cpus=options.cpus, gpus=options.gpus, memory_bytes=options.memory)
    assert spec.health == HealthPolicy(
        period_s=options.health_check_period_s,
        timeout_s=options.health_check_timeout_s,
        failure_threshold=options.health_check_failure_threshold,
        **{name: getattr(options, name) for name in HEALTH_OPTIONS},
    )
    assert spec.rollout == RolloutPolicy(**{name: getattr(options, name) for name in ROLLOUT_OPTIONS})


def test_the_code_and_the_file_say_the_same_of_gangs_bundles_and_actors() -> None:
    assert set(GangModel.model_fields) == set(GangOptions.__annotations__)
    assert set(BundleModel.model_fields) == set(BundleOptions.__annotations__)
    said = {field.name: field for field in fields(DeploymentActor)}
    assert set(ActorModel.model_fields) - {"import_path"} == set(said) - {"target"}
    for name, field in ActorModel.model_fields.items():
        if name in said and said[name].default is not MISSING and name != "args":
            assert field.default == said[name].default, name


def test_what_is_not_said_of_gangs_and_actors_is_as_specified() -> None:
    spec = make_spec("A", "m:A", {"actors": [DeploymentActor("cache", "m:Cache")], "gang": {}}, (), {})
    assert spec.gang == GangPolicy()
    assert spec.actors == (ActorSpec(name="cache", import_path="m:Cache"),)
    assert (spec.node_labels, spec.bundles) == ({}, ())


def test_options_outside_of_a_file_are_checked_all_at_once() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        check_options({"num_replicas": -1, "env": {"A": 1}, "cpus": float("nan")}, where="deployment 'A'")
    assert {violation.field for violation in caught.value.violations} == {"num_replicas", "env.A", "cpus"}
    assert str(caught.value).startswith("deployment 'A' is not valid")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(2, Share(2)), ("2", Share(2)), (0, Share(0)), ("25%", Share(25, percent=True)), ("0%", Share(0, percent=True))],
)
def test_a_share_is_a_number_or_a_percentage(given: int | str, expected: Share) -> None:
    options = check_options({"max_surge": given, "max_unavailable": given}, where="test")
    assert (options.max_surge, options.max_unavailable) == (expected, expected)


@pytest.mark.parametrize("given", [-1, "-1", "25 %", "1.5", "%", "many", True, 1.5, None])
def test_what_is_no_share_is_refused_with_its_path(given: object) -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        check_options({"max_surge": given}, where="test")
    assert [violation.field for violation in caught.value.violations] == ["max_surge"]


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        check_options({"max_unavailable": "101%", "pause_at": 0, "on_failure": "explode"}, where="test")
    assert {violation.field: violation.description for violation in caught.value.violations} == {
        "max_unavailable": "101% is more than all replicas",
        "pause_at": "0 must be more than 0; leave it out to not pause",
        "on_failure": "input should be 'rollback' or 'hold', not 'explode'",
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"suspect_after_missed": 4, "lost_after_missed": 3}, "suspect_after_missed (4) is more than"),
        ({"min_ready_s": 10.0, "progress_deadline_s": 10.0}, "min_ready_s (10) is not shorter than"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigInvalidError, match=re.escape(text)):
        check_options(given, where="test")


def test_neither_surge_nor_unavailable_is_allowed() -> None:
    options = check_options({"max_surge": 0, "max_unavailable": 0}, where="test")
    assert (options.max_surge, options.max_unavailable) == (Share(0), Share(0))
