"""Descriptions of gangs and actors over real gRPC: counted in whole gangs, planned without being done, refused whole."""

from __future__ import annotations

from serve_core.errors import ConfigInvalidError
from serve_core.model.actor import ActorSpec
from serve_core.model.deployplan import DeployEffect
from serve_core.model.gang import GangPolicy, GangRoute, Strategy
from serve_core.model.resources import Resources
from serve_core.v1 import controller_pb2
from serve_core.wire.deployplan import decode_deployment_plan
from serve_core.wire.spec import encode_application_spec
from tests.shell.controller.rig import Rig, app, controller, refusal, spec

PAIRS = spec("d", num_replicas=4, gang=GangPolicy(size=2))


async def _scaled(rig: Rig, num_replicas: int) -> int:
    request = controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=num_replicas)
    return (await rig.stub.ScaleDeployment(request)).generation


async def test_a_scale_that_leaves_a_gang_incomplete_is_refused_and_changes_nothing() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", PAIRS))
        error = await refusal(_scaled(rig, 5))
        assert isinstance(error, ConfigInvalidError)
        assert [(one.field, one.description) for one in error.violations] == [
            ("num_replicas", "5 is no multiple of gang.size = 2; the nearest are 4 and 6")
        ]
        (application,) = (await rig.status()).applications
        assert (application.generation, application.deployments[0].num_replicas) == (1, 4)
        assert await _scaled(rig, 6) == 2


async def test_everything_wrong_with_gangs_and_actors_is_refused_at_once() -> None:
    wrong = spec(
        "d",
        num_replicas=3,
        gang=GangPolicy(size=2, roles=("one",)),
        env={"MASTER_PORT": "1"},
        actors=(
            ActorSpec(name="a", import_path="m:A"),
            ActorSpec(name="a", import_path="m:B", snapshot_interval_s=1.0),
        ),
    )
    async with controller() as rig:
        request = controller_pb2.DeployApplicationRequest(application=encode_application_spec(app("app", wrong)))
        error = await refusal(rig.stub.DeployApplication(request))
        assert isinstance(error, ConfigInvalidError)
        assert {one.field.removeprefix("application.deployments[0].") for one in error.violations} == {
            "num_replicas",
            "gang.roles",
            "env",
            "actors[1].name",
            "actors[1].snapshot_interval_s",
        }
        assert (await rig.status()).applications == ()


async def test_another_size_of_gangs_is_planned_as_a_rollout_and_its_route_in_place() -> None:
    fours = spec("d", num_replicas=4, gang=GangPolicy(size=4, placement=Strategy.STRICT_PACK))
    led = spec("d", num_replicas=4, gang=GangPolicy(size=2, route=GangRoute.LEADER))
    actor = ActorSpec(name="cache", import_path="m:Cache", resources=Resources(cpus=0.25))
    async with controller() as rig:
        await rig.deploy(app("app", PAIRS))
        (plan,) = (await rig.deploy(app("app", fours), validate_only=True)).plans
        assert [(one.field, one.new_value, one.restarts) for one in plan.changes] == [
            ("gang.size", "4", True),
            ("gang.placement", "STRICT_PACK", True),
        ]
        told = decode_deployment_plan(plan)
        assert (told.effect, told.surge_replicas, told.gang_size) == (DeployEffect.ROLLOUT, 4, 4)
        (plan,) = (await rig.deploy(app("app", led), validate_only=True)).plans
        assert decode_deployment_plan(plan).effect is DeployEffect.RECONFIGURE
        (plan,) = (await rig.deploy(app("app", spec("d", actors=(actor,))), validate_only=True)).plans
        told = decode_deployment_plan(plan)
        assert (told.effect, told.actors) == (DeployEffect.ROLLOUT, ("cache",))
        assert (await rig.status()).applications[0].generation == 1
