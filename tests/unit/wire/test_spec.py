"""Descriptions of applications: defaults, and everything wrong at once."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from serve_core.errors import ConfigInvalidError
from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.gang import GangPolicy, GangRoute, OnMemberFailure, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding, Payload
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, OnFailure, RolloutPolicy
from serve_core.v1 import controller_pb2, types_pb2
from serve_core.wire.spec import (
    decode_application_spec,
    decode_deployment_spec,
    encode_application_spec,
    encode_deployment_spec,
)

FULL = DeploymentSpec(
    name="search",
    import_path="shop.main:Search.Inner",
    init_arguments=Payload(Encoding.MSGPACK, b"\x92\x90\x80"),
    num_replicas=0,
    resources=Resources(cpus=0.0, gpus=2.0, memory_bytes=2**33, custom={"disk": 1.5}),
    env={"A": "1"},
    working_dir="/srv",
    interpreter="/usr/bin/python3",
    max_ongoing_requests=1,
    max_queued_requests=-1,
    slot_ttl_s=0.5,
    slot_ttl_max_s=0.5,
    start_deadline_s=1.25,
    graceful_shutdown_timeout_s=0.0,
    health=HealthPolicy(
        period_s=0.1,
        timeout_s=0.2,
        failure_threshold=1,
        heartbeat_period_s=0.25,
        suspect_after_missed=2,
        lost_after_missed=4,
        readiness_period_s=0.5,
    ),
    user_config=Payload(Encoding.JSON, b"{}"),
    metadata={"k": "v"},
    max_start_failures=1,
    thread_count=4,
    rollout=RolloutPolicy(
        max_surge=Share(0),
        max_unavailable=Share(50, percent=True),
        min_ready_s=1.5,
        progress_deadline_s=60.0,
        pause_at=Share(25, percent=True),
        on_failure=OnFailure.HOLD,
        max_concurrent_starts=2,
    ),
    gang=GangPolicy(
        size=2,
        placement=Strategy.STRICT_SPREAD,
        on_member_failure=OnMemberFailure.RESTART_REPLICA,
        start_deadline_s=2.5,
        max_restarts=0,
        route=GangRoute.LEADER,
        roles=("prefill", "decode"),
        abort_in_flight=True,
    ),
    node_labels={"disk": "ssd"},
    bundles=(Resources(cpus=0.5), Resources(gpus=1.0, custom={"x": 2.0})),
    actors=(
        ActorSpec(
            name="cache",
            import_path="shop.main:Cache",
            init_arguments=Payload(Encoding.MSGPACK, b"\x92\x90\x80"),
            resources=Resources(cpus=0.5),
            env={"B": "2"},
            max_concurrency=1,
            health=HealthPolicy(period_s=0.1),
            start_deadline_s=1.25,
            max_restarts=0,
            on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT,
            snapshot_interval_s=0.5,
            shared=ActorSharing.DEPLOYMENT,
        ),
        ActorSpec(name="tree", import_path="shop.main:Tree"),
    ),
    autoscaling=AutoscalingPolicy(
        min_replicas=0,
        max_replicas=6,
        target_ongoing_requests=1.5,
        look_back_s=2.0,
        upscale_delay_s=0.0,
        downscale_delay_s=60.5,
    ),
)
PLAIN = controller_pb2.DeploymentSpec(name="search", import_path="shop:Search")


def wrong_fields(message: controller_pb2.DeploymentSpec) -> dict[str, str]:
    with pytest.raises(ConfigInvalidError) as caught:
        decode_deployment_spec(message, path="d")
    return {violation.field: violation.description for violation in caught.value.violations}


@pytest.mark.parametrize("spec", [FULL, DeploymentSpec(name="a", import_path="b:c")])
def test_deployment_survives(spec: DeploymentSpec) -> None:
    data = encode_deployment_spec(spec).SerializeToString()
    assert decode_deployment_spec(controller_pb2.DeploymentSpec.FromString(data)) == spec


def test_unset_fields_have_the_defaults() -> None:
    assert decode_deployment_spec(PLAIN) == DeploymentSpec(name="search", import_path="shop:Search")


def test_partly_set_health_policy_keeps_the_other_defaults() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a", import_path="b:c", health=controller_pb2.HealthPolicy(period=Duration(seconds=1))
    )
    assert decode_deployment_spec(message).health == HealthPolicy(period_s=1.0)


def test_partly_set_autoscaling_keeps_the_other_defaults_and_begins_with_a_gang() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a",
        import_path="b:c",
        gang=controller_pb2.GangPolicy(size=2),
        autoscaling=controller_pb2.AutoscalingPolicy(max_replicas=8),
    )
    spec = decode_deployment_spec(message)
    assert spec.autoscaling == AutoscalingPolicy(min_replicas=2, max_replicas=8)
    assert spec.num_replicas == 2
    message.autoscaling.min_replicas = 0
    assert decode_deployment_spec(message).num_replicas == 2
    message.num_replicas = 4
    assert decode_deployment_spec(message).num_replicas == 4


def test_everything_wrong_with_autoscaling_is_listed_at_once() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a",
        import_path="b:c",
        autoscaling=controller_pb2.AutoscalingPolicy(
            min_replicas=10_001,
            max_replicas=10_001,
            target_ongoing_requests=0.0,
            look_back=Duration(),
            upscale_delay=Duration(seconds=-1),
            downscale_delay=Duration(seconds=-1),
        ),
    )
    names = ("min_replicas", "max_replicas", "target_ongoing_requests", "look_back", "upscale_delay", "downscale_delay")
    assert set(wrong_fields(message)) >= {f"d.autoscaling.{name}" for name in names}


def test_partly_set_gangs_and_actors_keep_the_other_defaults() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a",
        import_path="b:c",
        gang=controller_pb2.GangPolicy(size=4),
        actors=[controller_pb2.ActorSpec(name="cache", import_path="b:Cache")],
    )
    spec = decode_deployment_spec(message)
    assert spec.gang == GangPolicy(size=4)
    assert spec.actors == (ActorSpec(name="cache", import_path="b:Cache"),)


def test_everything_wrong_with_gangs_and_actors_is_listed_at_once() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a",
        import_path="b:c",
        gang=controller_pb2.GangPolicy(
            size=10_001,
            placement=9,  # type: ignore[arg-type]
            on_member_failure=9,  # type: ignore[arg-type]
            start_deadline=Duration(),
            max_restarts=2_000_000,
            route=9,  # type: ignore[arg-type]
        ),
        bundles=[types_pb2.Resources(cpus=1), types_pb2.Resources(cpus=-1)],
        actors=[
            controller_pb2.ActorSpec(
                name="9",
                import_path="no colon",
                init_arguments=types_pb2.Payload(data=b"x"),
                resources=types_pb2.Resources(gpus=1.5),
                env={"A=B": "1"},
                max_concurrency=0,
                health=controller_pb2.HealthPolicy(timeout=Duration()),
                start_deadline=Duration(),
                max_restarts=2_000_000,
                on_failure=9,  # type: ignore[arg-type]
                snapshot_interval=Duration(seconds=-1),
                shared=9,  # type: ignore[arg-type]
            )
        ],
    )
    wrong = wrong_fields(message)
    assert wrong["d.gang.placement"] == "9 is not one of PACK (1), SPREAD (2), STRICT_PACK (3), STRICT_SPREAD (4)"
    assert set(wrong) == {
        "d.gang.size",
        "d.gang.placement",
        "d.gang.on_member_failure",
        "d.gang.start_deadline",
        "d.gang.max_restarts",
        "d.gang.route",
        "d.bundles[1].cpus",
        "d.actors[0].name",
        "d.actors[0].import_path",
        "d.actors[0].init_arguments.encoding",
        "d.actors[0].resources.gpus",
        "d.actors[0].env['A=B']",
        "d.actors[0].max_concurrency",
        "d.actors[0].health.timeout",
        "d.actors[0].start_deadline",
        "d.actors[0].max_restarts",
        "d.actors[0].on_failure",
        "d.actors[0].snapshot_interval",
        "d.actors[0].shared",
    }


def test_everything_wrong_is_listed_at_once() -> None:
    message = controller_pb2.DeploymentSpec(
        name="9",
        import_path="no colon",
        init_arguments=types_pb2.Payload(data=b"x"),
        num_replicas=10_001,
        resources=types_pb2.Resources(cpus=-1, gpus=1.5, custom={"": 1, "x": float("nan")}),
        env={"A=B": "1", "C": "\0"},
        working_dir="\0",
        max_ongoing_requests=0,
        max_queued_requests=-2,
        slot_ttl=Duration(seconds=-1),
        slot_ttl_max=Duration(nanos=-5),
        start_deadline=Duration(),
        graceful_shutdown_timeout=Duration(seconds=1, nanos=-1),
        health=controller_pb2.HealthPolicy(timeout=Duration(seconds=10**10)),
        max_start_failures=0,
        thread_count=10_001,
    )
    assert set(wrong_fields(message)) == {
        "d.name",
        "d.import_path",
        "d.init_arguments.encoding",
        "d.num_replicas",
        "d.resources.cpus",
        "d.resources.gpus",
        "d.resources.custom",
        "d.resources.custom['x']",
        "d.env['A=B']",
        "d.env['C']",
        "d.working_dir",
        "d.max_ongoing_requests",
        "d.max_queued_requests",
        "d.slot_ttl",
        "d.slot_ttl_max",
        "d.start_deadline",
        "d.graceful_shutdown_timeout",
        "d.health.timeout",
        "d.max_start_failures",
        "d.thread_count",
    }


@pytest.mark.parametrize("path", ["", "a", "a:", ":b", "a:b:c", "a.:b", "a-b:c", "a:b()", "a:b.", " a:b"])
def test_import_paths_that_are_none(path: str) -> None:
    assert (
        "MODULE:ATTRIBUTE" in wrong_fields(controller_pb2.DeploymentSpec(name="a", import_path=path))["d.import_path"]
    )


def test_ttl_longer_than_its_maximum() -> None:
    message = controller_pb2.DeploymentSpec(name="a", import_path="b:c", slot_ttl=Duration(seconds=61))
    assert wrong_fields(message) == {"d.slot_ttl": "61 s is longer than slot_ttl_max, 60 s"}


@pytest.mark.parametrize("gpus", [0.0, 0.5, 1.0, 3.0])
def test_gpus_are_whole_or_one_fraction(gpus: float) -> None:
    message = controller_pb2.DeploymentSpec(name="a", import_path="b:c", resources=types_pb2.Resources(gpus=gpus))
    assert decode_deployment_spec(message).resources.gpus == gpus


def test_infinite_gpus_are_refused_once() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a", import_path="b:c", resources=types_pb2.Resources(gpus=float("inf"))
    )
    assert wrong_fields(message) == {"d.resources.gpus": "inf must be a number of 0 or more"}


def test_application_survives() -> None:
    spec = ApplicationSpec(name="shop", ingress="search", deployments=(FULL,))
    assert decode_application_spec(encode_application_spec(spec)) == spec


def test_only_deployment_is_the_ingress() -> None:
    message = controller_pb2.ApplicationSpec(name="shop", deployments=[PLAIN])
    assert decode_application_spec(message).ingress == "search"


def test_application_lists_what_is_wrong_in_all_deployments() -> None:
    message = controller_pb2.ApplicationSpec(
        name="",
        deployments=[PLAIN, PLAIN, controller_pb2.DeploymentSpec(name="x", import_path="b:c", num_replicas=99_999)],
    )
    with pytest.raises(ConfigInvalidError) as caught:
        decode_application_spec(message)
    assert [violation.field for violation in caught.value.violations] == [
        "application.name",
        "application.deployments[1].name",
        "application.deployments[2].num_replicas",
        "application.ingress",
    ]


def test_application_without_deployments_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="at least one deployment"):
        decode_application_spec(controller_pb2.ApplicationSpec(name="shop"))


@pytest.mark.parametrize("share", [Share(0), Share(3), Share(0, percent=True), Share(25, percent=True)])
def test_shares_survive(share: Share) -> None:
    spec = DeploymentSpec(name="a", import_path="b:c", rollout=RolloutPolicy(max_surge=share, max_unavailable=share))
    assert decode_deployment_spec(encode_deployment_spec(spec)).rollout == spec.rollout


def test_partly_set_rollout_policy_keeps_the_other_defaults() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a", import_path="b:c", rollout=controller_pb2.RolloutPolicy(max_surge="2")
    )
    assert decode_deployment_spec(message).rollout == RolloutPolicy(max_surge=Share(2))


def test_everything_wrong_with_the_policies_is_listed_at_once() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a",
        import_path="b:c",
        health=controller_pb2.HealthPolicy(
            heartbeat_period=Duration(seconds=-1),
            suspect_after_missed=11,
            lost_after_missed=2_000_000,
            readiness_period=Duration(),
        ),
        rollout=controller_pb2.RolloutPolicy(
            max_surge="many",
            max_unavailable="101%",
            min_ready=Duration(seconds=-1),
            progress_deadline=Duration(),
            pause_at="0",
            on_failure=7,  # type: ignore[arg-type]
            max_concurrent_starts=10_001,
        ),
    )
    wrong = wrong_fields(message)
    assert set(wrong) == {
        "d.health.heartbeat_period",
        "d.health.lost_after_missed",
        "d.health.readiness_period",
        "d.rollout.max_surge",
        "d.rollout.max_unavailable",
        "d.rollout.min_ready",
        "d.rollout.progress_deadline",
        "d.rollout.pause_at",
        "d.rollout.on_failure",
        "d.rollout.max_concurrent_starts",
    }
    assert "'25%'" in wrong["d.rollout.max_surge"]


def test_a_replica_cannot_be_lost_before_it_is_suspect() -> None:
    message = controller_pb2.DeploymentSpec(
        name="a", import_path="b:c", health=controller_pb2.HealthPolicy(lost_after_missed=2)
    )
    assert wrong_fields(message) == {"d.health.suspect_after_missed": "3 is more than lost_after_missed, 2"}
