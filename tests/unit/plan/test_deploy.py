from __future__ import annotations

import math
from dataclasses import replace

import pytest

from serve_core.errors import ConfigInvalidError, DeploymentUnknownError, RevisionConflictError
from serve_core.model.gang import GangPolicy
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Failure
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec
from serve_core.plan import deploy
from serve_core.plan.records import REVISIONS_MAX, Records
from serve_core.plan.revision import revision_id
from serve_core.plan.validate import application_violations
from tests.unit.plan.world import KEY, a_spec, an_application


def _deploy(records: Records, *specs: object, now: float = 1.0, expected: int | None = None) -> deploy.Change:
    return deploy.deploy(records, an_application(*specs), now=now, expected_generation=expected)  # type: ignore[arg-type]


def _after(records: Records, change: deploy.Change) -> Records:
    return deploy.apply_change(records, change)


def _deployed(*specs: object) -> Records:
    return _after(Records(), _deploy(Records(), *(specs or (a_spec(),))))


def test_a_first_deploy() -> None:
    change = _deploy(Records(), a_spec())
    assert change.generation == 1
    assert change.revisions == {"main": revision_id(a_spec())}
    record = _after(Records(), change).deployments[KEY]
    assert (record.target, record.num_replicas, record.generation) == (revision_id(a_spec()), 2, 1)
    assert record.revisions[0].created_at == 1.0


def test_the_same_again_changes_nothing() -> None:
    records = _deployed()
    change = _deploy(records, a_spec(), now=2.0)
    assert (change.saved_application, change.saved_deployments, change.generation) == (None, (), 1)
    assert change.revisions == {"main": revision_id(a_spec())}
    assert _after(records, change) == records


def test_only_what_differs_is_changed() -> None:
    records = _deployed(a_spec(), a_spec(name="other"))
    change = _deploy(records, a_spec(), a_spec(name="other", max_ongoing_requests=9))
    assert [record.key.deployment for record in change.saved_deployments] == ["other"]
    assert change.saved_deployments[0].target == revision_id(a_spec())
    assert change.saved_deployments[0].target_spec.max_ongoing_requests == 9
    assert change.generation == 2


def test_a_change_in_place_is_told_with_what_changed() -> None:
    records = _deployed(a_spec(), a_spec(name="other"))
    health = HealthPolicy(period_s=3.0)
    change = _deploy(
        records, a_spec(max_ongoing_requests=9, health=health, num_replicas=4), a_spec(name="other"), now=2.0
    )
    (event,) = change.events
    assert (event.key, event.time, event.reason, event.warning) == (KEY, 2.0, "ChangedInPlace", False)
    assert event.message == "without a restart: max_ongoing_requests: 5 -> 9; health.period_s: 10 -> 3"


def test_another_revision_or_another_number_is_no_change_in_place() -> None:
    records = _deployed()
    assert _deploy(records, a_spec(import_path="app:v2", max_ongoing_requests=9)).events == ()
    assert _deploy(records, a_spec(num_replicas=4)).events == ()
    assert _deploy(records, a_spec(), a_spec(name="other", max_ongoing_requests=9)).events == ()
    removed = _after(records, deploy.delete(records, "app"))
    assert _deploy(removed, a_spec(max_ongoing_requests=9)).events == ()


def test_another_ingress_is_a_change_of_the_application() -> None:
    records = _deployed(a_spec(), a_spec(name="other"))
    spec = ApplicationSpec(name="app", ingress="other", deployments=(a_spec(), a_spec(name="other")))
    change = deploy.deploy(records, spec, now=2.0)
    assert change.saved_deployments == ()
    assert change.saved_application is not None
    assert change.saved_application.ingress == "other"


def test_a_deployment_that_is_not_named_any_more_is_removed_once() -> None:
    records = _deployed(a_spec(), a_spec(name="other"))
    records = _after(records, _deploy(records, a_spec()))
    assert records.deployments[DeploymentKey("app", "other")].deleting
    assert _deploy(records, a_spec()).saved_deployments == ()


def test_compare_and_set() -> None:
    records = _deployed()
    assert _deploy(records, a_spec(num_replicas=3), expected=1).generation == 2
    assert _deploy(Records(), a_spec(), expected=0).generation == 1
    with pytest.raises(RevisionConflictError) as caught:
        _deploy(records, a_spec(num_replicas=3), expected=7)
    assert caught.value.details == {"application": "app", "generation": "1", "expectedGeneration": "7"}


def test_scale() -> None:
    records = _deployed()
    change = deploy.scale(records, KEY, num_replicas=5)
    assert change.generation == 2
    records = _after(records, change)
    assert records.deployments[KEY].num_replicas == 5
    assert deploy.scale(records, KEY, num_replicas=5).saved_deployments == ()
    assert _deploy(records, a_spec(num_replicas=5)).saved_deployments == ()
    assert _after(records, _deploy(records, a_spec())).deployments[KEY].num_replicas == 2
    with pytest.raises(ConfigInvalidError) as caught:
        deploy.scale(records, KEY, num_replicas=-1)
    assert caught.value.violations[0].field == "num_replicas"


def test_scale_is_in_whole_gangs_of_the_target() -> None:
    records = _deployed(a_spec(gang=GangPolicy(size=2)))
    with pytest.raises(ConfigInvalidError, match=r"num_replicas: 5 is no .* gang\.size = 2; the nearest are 4 and 6"):
        deploy.scale(records, KEY, num_replicas=5)
    assert deploy.scale(records, KEY, num_replicas=6).saved_deployments[0].num_replicas == 6
    records = _after(records, _deploy(records, a_spec(num_replicas=2)))
    assert deploy.scale(records, KEY, num_replicas=5).saved_deployments[0].num_replicas == 5


def test_pause_and_resume() -> None:
    records = _deployed()
    assert deploy.pause(records, KEY, paused=False).saved_deployments == ()
    records = _after(records, deploy.pause(records, KEY, paused=True))
    assert records.deployments[KEY].paused
    assert deploy.pause(records, KEY, paused=True).saved_deployments == ()


def test_roll_back() -> None:
    records = _deployed()
    with pytest.raises(ConfigInvalidError, match="only one revision"):
        deploy.roll_back(records, KEY)
    first, second = a_spec(), a_spec(import_path="app:v2", max_ongoing_requests=9)
    records = _after(records, _deploy(records, second))
    records = _after(records, deploy.scale(records, KEY, num_replicas=7))
    change = deploy.roll_back(records, KEY)
    assert change.revisions == {"main": revision_id(first)}
    back = _after(records, change).deployments[KEY]
    assert back.target == revision_id(first)
    assert back.target_spec.max_ongoing_requests == 5
    assert back.num_replicas == 7, "a scale is not rolled back"
    assert [kept.revision for kept in back.revisions] == [revision_id(first), revision_id(second)]
    assert deploy.roll_back(records, KEY, revision=revision_id(second)).saved_deployments == ()
    with pytest.raises(ConfigInvalidError, match="'nothing' is not kept"):
        deploy.roll_back(records, KEY, revision="nothing")


def test_a_bounded_number_of_revisions_is_kept_but_none_in_use_is_dropped() -> None:
    records = _deployed()
    good = records.deployments[KEY].target
    records = replace(records, deployments={KEY: replace(records.deployments[KEY], last_good=good)})
    for number in range(20):
        records = _after(records, _deploy(records, a_spec(import_path=f"app:n{number}")))
    record = records.deployments[KEY]
    assert len(record.revisions) == REVISIONS_MAX + 1
    assert record.revision(good) is not None
    assert record.revisions[0].revision == record.target
    assert [kept.spec.import_path for kept in record.revisions[:3]] == ["app:n19", "app:n18", "app:n17"]


def test_what_was_given_up_is_tried_anew_by_the_same_description() -> None:
    records = _deployed()
    given_up = replace(
        records.deployments[KEY],
        start_failures=5,
        retry_at=99.0,
        crashes=2,
        terminal=Failure(reason="X", message="x"),
    )
    records = replace(records, deployments={KEY: given_up})
    record = _after(records, _deploy(records, a_spec())).deployments[KEY]
    assert (record.start_failures, record.retry_at, record.crashes, record.terminal) == (0, 0.0, 0, None)


def test_a_change_in_place_does_not_forget_failures_in_a_row() -> None:
    records = _deployed()
    failing = replace(records.deployments[KEY], start_failures=2, retry_at=99.0)
    records = replace(records, deployments={KEY: failing})
    record = _after(records, _deploy(records, a_spec(max_ongoing_requests=7))).deployments[KEY]
    assert (record.start_failures, record.retry_at) == (2, 99.0)


def test_delete() -> None:
    records = _deployed(a_spec(), a_spec(name="other"))
    change = deploy.delete(records, "app")
    records = _after(records, change)
    assert records.applications["app"].deleting
    assert all(record.deleting for record in records.deployments.values())
    assert deploy.delete(records, "app").saved_application is None
    with pytest.raises(DeploymentUnknownError, match="has no deployment 'main'; it has: none"):
        deploy.scale(records, KEY, num_replicas=1)
    again = _after(records, _deploy(records, a_spec()))
    assert not again.applications["app"].deleting
    assert not again.deployments[KEY].deleting
    assert again.deployments[DeploymentKey("app", "other")].deleting


def test_delete_all() -> None:
    records = _deployed()
    (change,) = deploy.delete_all(records)
    assert _after(records, change).applications["app"].deleting
    assert deploy.delete_all(Records()) == ()


def test_what_is_unknown() -> None:
    with pytest.raises(DeploymentUnknownError, match="no application 'app'; there is: none"):
        deploy.delete(Records(), "app")
    with pytest.raises(DeploymentUnknownError, match="'other'; it has: main") as caught:
        deploy.pause(_deployed(), DeploymentKey("app", "other"), paused=True)
    assert caught.value.details == {"application": "app", "deployment": "other"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    bad = a_spec(name="9", import_path="nothing", num_replicas=-1, resources=Resources(cpus=-1.0, gpus=1.5))
    with pytest.raises(ConfigInvalidError) as caught:
        deploy.deploy(Records(), ApplicationSpec(name="", ingress="x", deployments=(bad,)), now=0.0, path="a[0]")
    assert [violation.field for violation in caught.value.violations] == [
        "a[0].name",
        "a[0].deployments[0].name",
        "a[0].deployments[0].import_path",
        "a[0].deployments[0].num_replicas",
        "a[0].deployments[0].resources.cpus",
        "a[0].deployments[0].resources.gpus",
        "a[0].ingress",
    ]


def test_no_deployment_at_all() -> None:
    violations = application_violations(ApplicationSpec(name="app", ingress="x", deployments=()))
    assert [violation.field for violation in violations] == ["application.deployments"]


def test_one_name_twice() -> None:
    violations = application_violations(an_application(a_spec(), a_spec()))
    assert [(violation.field, violation.description) for violation in violations] == [
        ("application.deployments[1].name", "'main' is also the name of deployments[0]")
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"import_path": "a.b:c.d e"}, "import_path"),
        ({"import_path": "a:"}, "import_path"),
        ({"num_replicas": 10_001}, "num_replicas"),
        ({"resources": Resources(memory_bytes=-1)}, "resources.memory_bytes"),
        ({"resources": Resources(custom={"x": 0.00001})}, "resources.custom['x']"),
        ({"resources": Resources(gpus=math.nan)}, "resources.gpus"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": "\0"}}, "env"),
        ({"max_ongoing_requests": 0}, "max_ongoing_requests"),
        ({"max_queued_requests": -2}, "max_queued_requests"),
        ({"max_start_failures": 0}, "max_start_failures"),
        ({"thread_count": -1}, "thread_count"),
        ({"slot_ttl_s": 0.0}, "slot_ttl_s"),
        ({"slot_ttl_s": 61.0}, "slot_ttl_s"),
        ({"slot_ttl_max_s": math.inf}, "slot_ttl_max_s"),
        ({"start_deadline_s": -1.0}, "start_deadline_s"),
        ({"graceful_shutdown_timeout_s": -0.1}, "graceful_shutdown_timeout_s"),
        ({"health": HealthPolicy(period_s=0.0)}, "health.period_s"),
        ({"health": HealthPolicy(timeout_s=math.nan)}, "health.timeout_s"),
        ({"health": HealthPolicy(failure_threshold=0)}, "health.failure_threshold"),
    ],
)
def test_one_thing_wrong(changes: dict[str, object], field: str) -> None:
    (violation,) = application_violations(an_application(a_spec(**changes)))
    assert violation.field == f"application.deployments[0].{field}"
    assert violation.description


def test_what_is_allowed() -> None:
    spec = a_spec(
        name="A-b_9",
        import_path="pkg.módulo:Klass.method",
        num_replicas=0,
        resources=Resources(cpus=0.1, gpus=0.25, custom={"tpu": 2.0}),
        env={"A": "="},
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=0.0,
    )
    assert application_violations(an_application(spec)) == ()
