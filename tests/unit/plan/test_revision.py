from __future__ import annotations

import pytest

from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding, Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import RolloutPolicy
from serve_core.plan.revision import config_version, revision_id
from tests.unit.plan.world import a_spec

RESTART: dict[str, object] = {
    "import_path": "app:other",
    "init_arguments": Payload(Encoding.JSON, b"[1]"),
    "resources": Resources(cpus=2.0),
    "env": {"A": "1"},
    "working_dir": "/srv",
    "interpreter": "/usr/bin/python3",
    "thread_count": 3,
}
IN_PLACE: dict[str, object] = {
    "user_config": Payload(Encoding.JSON, b"{}"),
    "max_ongoing_requests": 9,
    "slot_ttl_s": 3.0,
    "slot_ttl_max_s": 30.0,
    "graceful_shutdown_timeout_s": 7.0,
    "health": HealthPolicy(period_s=1.0),
    "metadata": {"k": "v"},
}
NOT_SENT: dict[str, object] = {
    "num_replicas": 9,
    "max_queued_requests": 3,
    "start_deadline_s": 9.0,
    "max_start_failures": 9,
    "rollout": RolloutPolicy(min_ready_s=1.0),
}


@pytest.mark.parametrize("name", RESTART)
def test_what_must_restart_makes_a_revision(name: str) -> None:
    changed = a_spec(**{name: RESTART[name]})
    assert revision_id(changed) != revision_id(a_spec())
    assert config_version(changed) == config_version(a_spec())


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_changes_in_place_makes_none(name: str) -> None:
    changed = a_spec(**{name: IN_PLACE[name]})
    assert revision_id(changed) == revision_id(a_spec())
    assert config_version(changed) != config_version(a_spec())


@pytest.mark.parametrize("name", NOT_SENT)
def test_what_replicas_need_not_know(name: str) -> None:
    changed = a_spec(**{name: NOT_SENT[name]})
    assert revision_id(changed) == revision_id(a_spec())
    assert config_version(changed) == config_version(a_spec())


def test_every_field_is_in_one_of_the_three_groups() -> None:
    assert set(RESTART) | set(IN_PLACE) | set(NOT_SENT) | {"name"} == set(type(a_spec()).__dataclass_fields__)


def test_the_order_of_variables_does_not_matter() -> None:
    assert revision_id(a_spec(env={"A": "1", "B": "2"})) == revision_id(a_spec(env={"B": "2", "A": "1"}))
