from __future__ import annotations

import dataclasses
import os
from typing import Any

import msgspec
import pytest

import serve_core
from serve_core.api import Application, Deployment, build, deployment, get_handle
from serve_core.deployment_actor import DeploymentActor
from serve_core.errors import ConfigInvalidError
from serve_core.handle import DeploymentHandle
from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy, GangRoute, Strategy
from serve_core.model.payload import Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.options import GangOptions
from serve_core.wire.codec import HandleRef, decode_value


class Greeter:
    def __init__(self, greeting: str, *, loud: bool = False) -> None:
        self.greeting = greeting
        self.loud = loud

    async def greet(self, name: str) -> str:
        return f"{self.greeting}, {name}"


class Front:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts


greeter = deployment(Greeter, num_replicas=2, memory="1Gi", user_config={"a": 1}, metadata={"team": "x"})
front = deployment(Front)


@deployment(num_replicas=3)
class Decorated:
    """Says nothing."""


@deployment(name="double", max_ongoing_requests=3)
def twice(value: int) -> int:
    return 2 * value


@dataclasses.dataclass(frozen=True)
class Wiring:
    label: str
    part: Any


class StructWiring(msgspec.Struct, frozen=True):
    part: Any


def spec_of(application: ApplicationSpec, name: str) -> DeploymentSpec:
    return next(spec for spec in application.deployments if spec.name == name)


def arguments(payload: Payload | None) -> Any:
    assert payload is not None
    return decode_value(payload)


def test_every_public_name_can_be_had() -> None:
    for name in serve_core.__all__:
        assert getattr(serve_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = serve_core.nonsense


def test_an_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigInvalidError, match="did you mean 'num_replicas'"):
        deployment(num_replica=2)  # type: ignore[call-overload]
    with pytest.raises(ConfigInvalidError, match="unknown option 'nonsense'"):
        greeter.options(nonsense=1)  # type: ignore[call-arg]


def test_options_leave_the_deployment_as_it_was() -> None:
    other = greeter.options(name="Other", num_replicas=5)
    assert (other.name, other.given["num_replicas"]) == ("Other", 5)
    assert (greeter.name, greeter.given["num_replicas"]) == ("Greeter", 2)
    assert other.given["memory"] == "1Gi"


def test_a_deployment_can_be_called_for_tests() -> None:
    assert greeter("Hello").greeting == "Hello"
    assert twice(4) == 8


def test_a_class_can_be_decorated() -> None:
    assert isinstance(Decorated, Deployment)
    assert Decorated.__doc__ == "Says nothing."
    (only,) = build(Decorated.bind()).deployments
    assert (only.name, only.num_replicas, only.import_path) == ("Decorated", 3, f"{__name__}:Decorated")


def test_arguments_that_the_constructor_does_not_take_are_refused_when_bound() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        greeter.bind("Hello", nonsense=1)  # type: ignore[call-arg]


def test_a_bound_deployment_says_that_it_is_no_handle() -> None:
    with pytest.raises(AttributeError, match="it only describes"):
        greeter.bind("Hello").greet("Ada")


def test_one_deployment_is_described_whole() -> None:
    spec = build(greeter.bind("Hello", loud=True), "app")
    assert (spec.name, spec.ingress) == ("app", "Greeter")
    (only,) = spec.deployments
    assert only.import_path == f"{__name__}:Greeter"
    assert (only.num_replicas, only.resources.memory_bytes, only.metadata) == (2, 2**30, {"team": "x"})
    assert only.working_dir == os.getcwd()
    assert arguments(only.init_arguments) == [["Hello"], {"loud": True}]
    assert arguments(only.user_config) == {"a": 1}


def test_a_function_can_be_deployed() -> None:
    (only,) = build(twice.bind()).deployments  # type: ignore[call-arg]
    assert (only.name, only.import_path) == ("double", f"{__name__}:twice")
    assert only.init_arguments is None


def test_bound_deployments_inside_arguments_become_references_however_deep() -> None:
    shared = greeter.bind("Hello")
    app = front.bind(shared, [shared, {"x": (shared,)}], Wiring("w", shared), StructWiring(shared))
    spec = build(app, "app")
    assert [one.name for one in spec.deployments] == ["Greeter", "Front"]
    assert spec.ingress == "Front"
    ref = HandleRef("app", "Greeter")
    (first, listed, wiring, struct), _ = arguments(spec_of(spec, "Front").init_arguments)
    assert [first, listed[0], listed[1]["x"][0], wiring["part"], struct["part"]] == [ref] * 5


def test_what_was_bound_is_not_changed_by_building() -> None:
    shared = greeter.bind("Hello")
    parts = [shared]
    wiring = Wiring("w", shared)
    build(front.bind(parts, wiring))
    assert parts == [shared]
    assert wiring.part is shared


class Cache:
    def __init__(self, size: int, part: Any = None) -> None:
        self.size = size
        self.part = part


def test_a_gang_with_actors_is_described_whole() -> None:
    cache = DeploymentActor(
        "cache",
        Cache,
        args=(1000,),
        cpus=0.5,
        env={"A": "1"},
        on_failure="RESTART_FROM_SNAPSHOT",
        snapshot_interval_s=5.0,
    )
    gang = GangOptions(size=2, placement="STRICT_SPREAD", roles=("prefill", "decode"), route="LEADER", max_restarts=3)
    many = greeter.options(
        num_replicas=4,
        gang=gang,
        node_labels={"disk": "ssd"},
        bundles=[{"cpus": 0.5}],
        actors=[cache, DeploymentActor("tree", "app.trees:Tree", shared="deployment")],
    )
    (only,) = build(many.bind("Hello")).deployments
    assert only.gang == GangPolicy(
        size=2, placement=Strategy.STRICT_SPREAD, roles=("prefill", "decode"), route=GangRoute.LEADER, max_restarts=3
    )
    assert (only.node_labels, only.bundles) == ({"disk": "ssd"}, (Resources(cpus=0.5),))
    first, tree = only.actors
    assert arguments(first.init_arguments) == [[1000], {}]
    assert first == ActorSpec(
        name="cache",
        import_path=f"{__name__}:Cache",
        init_arguments=first.init_arguments,
        resources=Resources(cpus=0.5),
        env={"A": "1"},
        on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT,
        snapshot_interval_s=5.0,
    )
    assert tree == ActorSpec(name="tree", import_path="app.trees:Tree", shared=ActorSharing.DEPLOYMENT)


def test_bound_deployments_inside_arguments_of_actors_become_references() -> None:
    shared = greeter.bind("Hello")
    actors = [DeploymentActor("cache", Cache, args=(1,), kwargs={"part": shared})]
    spec = build(front.options(actors=actors).bind(), "app")
    assert [one.name for one in spec.deployments] == ["Greeter", "Front"]
    assert arguments(spec_of(spec, "Front").actors[0].init_arguments) == [[1], {"part": HandleRef("app", "Greeter")}]
    assert actors[0].kwargs["part"] is shared


def test_an_actor_may_be_a_decorated_class() -> None:
    (only,) = build(front.options(actors=[DeploymentActor("d", Decorated)]).bind()).deployments
    assert only.actors[0].import_path == f"{__name__}:Decorated"


def test_arguments_that_an_actor_does_not_take_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="size"):
        DeploymentActor("cache", Cache)


def test_everything_wrong_with_gangs_and_actors_is_said_at_once() -> None:
    class Inner:
        pass

    bad = front.options(
        gang={"size": 0, "placement": "ANY"},  # type: ignore[typeddict-item]
        bundles=[{"cpus": -1.0}],
        node_labels={"": ""},
        actors=[DeploymentActor("9", "nowhere", max_concurrency=0)],
    )
    with pytest.raises(ConfigInvalidError) as caught:
        build(bad.bind())
    assert {violation.field for violation in caught.value.violations} == {
        "deployments[Front].gang.size",
        "deployments[Front].gang.placement",
        "deployments[Front].bundles[0].cpus",
        "deployments[Front].node_labels",
        "deployments[Front].actors[0].name",
        "deployments[Front].actors[0].import_path",
        "deployments[Front].actors[0].max_concurrency",
    }
    with pytest.raises(ConfigInvalidError, match=r"deployments\[Front\]\.actors\[1\]\.target: .* top of a module"):
        build(front.options(actors=[DeploymentActor("a", Cache, args=(1,)), DeploymentActor("b", Inner)]).bind())


def test_two_bindings_of_one_class_get_names_of_their_own() -> None:
    spec = build(front.bind(greeter.bind("Hello"), greeter.bind("Moin")))
    assert [one.name for one in spec.deployments] == ["Greeter", "Greeter-2", "Front"]
    assert arguments(spec_of(spec, "Front").init_arguments)[0] == [
        HandleRef("default", "Greeter"),
        HandleRef("default", "Greeter-2"),
    ]


def test_a_handle_of_another_application_may_be_bound() -> None:
    spec = build(front.bind(get_handle("other", "A")))
    assert arguments(spec.deployments[0].init_arguments)[0] == [HandleRef("other", "A")]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    bad = front.options(num_replicas=-1, cpus=-1).bind(greeter.options(memory="much").bind("Hello"))
    with pytest.raises(ConfigInvalidError) as caught:
        build(bad, "1app")
    assert {violation.field for violation in caught.value.violations} == {
        "name",
        "deployments[Front].num_replicas",
        "deployments[Front].cpus",
        "deployments[Greeter].memory",
    }


def test_what_is_not_bound_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match=r"not bound; add \.bind"):
        build(greeter)  # type: ignore[arg-type]


def test_what_no_replica_can_import_is_refused() -> None:
    class Inner:
        pass

    local: Deployment[[], Inner] = Deployment(Inner, {})
    with pytest.raises(ConfigInvalidError, match="not at the top of a module"):
        build(local.bind())


def test_bound_deployments_compare_by_identity() -> None:
    first: Application[Any] = greeter.bind("Hello")
    assert first != greeter.bind("Hello")


def test_a_handle_needs_an_application() -> None:
    with pytest.raises(ConfigInvalidError, match="application: is empty"):
        get_handle("")
    handle = get_handle("app", target=front)
    assert isinstance(handle, DeploymentHandle)
