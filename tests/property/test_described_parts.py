"""Gangs, bundles, labels and actors on the way from a file to the controller: nothing is lost, and both judge alike."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve_core.errors import ConfigInvalidError
from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy, GangRoute, OnMemberFailure, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding, Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan.validate import application_violations
from serve_core.specs import make_spec
from serve_core.v1 import controller_pb2
from serve_core.wire.spec import decode_deployment_spec, encode_deployment_spec

SECONDS = st.integers(1, 10**9).map(lambda millis: millis / 1000)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
TEXTS = st.dictionaries(NAMES, st.text("abc=./ ", max_size=4), max_size=2)
RESOURCES = st.builds(
    Resources,
    cpus=st.integers(0, 10**6).map(lambda units: units / 10_000),
    gpus=st.integers(0, 8).map(float),
    memory_bytes=st.integers(0, 2**40),
    custom=st.dictionaries(NAMES, st.integers(0, 9).map(float), max_size=2),
)
GANGS = st.integers(1, 8).flatmap(
    lambda size: st.builds(
        GangPolicy,
        size=st.just(size),
        placement=st.sampled_from(Strategy),
        on_member_failure=st.sampled_from(OnMemberFailure),
        start_deadline_s=st.none() | SECONDS,
        max_restarts=st.integers(0, 100),
        route=st.sampled_from(GangRoute),
        roles=st.just(()) | st.lists(NAMES, min_size=size, max_size=size).map(tuple),
        abort_in_flight=st.booleans(),
    )
)
ACTORS = st.builds(
    ActorSpec,
    name=NAMES,
    import_path=st.just("m:A"),
    init_arguments=st.none() | st.builds(Payload, st.just(Encoding.MSGPACK), st.binary(max_size=4)),
    resources=RESOURCES,
    env=TEXTS,
    max_concurrency=st.integers(1, 1000),
    health=st.builds(HealthPolicy, period_s=SECONDS, suspect_after_missed=st.integers(1, 10)),
    start_deadline_s=SECONDS,
    max_restarts=st.integers(0, 100),
    on_failure=st.sampled_from(ActorOnFailure),
    snapshot_interval_s=st.just(0.0) | SECONDS,
    shared=st.sampled_from(ActorSharing),
)
SPECS = st.builds(
    DeploymentSpec,
    name=NAMES,
    import_path=st.just("m:A"),
    gang=GANGS,
    node_labels=TEXTS,
    bundles=st.lists(RESOURCES, max_size=3).map(tuple),
    actors=st.lists(ACTORS, max_size=3).map(tuple),
)


def mostly(*good: Any, bad: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Values of which few are wrong, so that whole descriptions are often right."""
    return st.sampled_from([*(good * (20 * len(bad) // len(good) + 1)), *bad])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


VARIABLES = mostly("A", "B", bad=("RANK", "SERVE_CORE_RUN", "A=B", ""))
AMOUNTS = mostly(0.0, 0.5, 1.0, 2.0, bad=(1.5, 0.00001, -1.0, float("nan")))
ACTOR_OPTIONS = some(
    cpus=AMOUNTS,
    gpus=AMOUNTS,
    env=st.dictionaries(VARIABLES, st.just("x"), max_size=1),
    max_concurrency=mostly(1, 2, bad=(0,)),
    max_restarts=mostly(0, 1, bad=(-1,)),
    on_failure=mostly("RESTART_FROM_SNAPSHOT", bad=("RESTART", "rest")),
    snapshot_interval_s=mostly(0.0, 1.0, bad=(-1.0,)),
    suspect_after_missed=mostly(1, 10, bad=(0, 11)),
)
OPTIONS = some(
    num_replicas=mostly(0, 6, 12, bad=(-1, 5, 10_001)),
    env=st.dictionaries(VARIABLES, mostly("", "x", bad=("\0",)), max_size=1),
    gang=some(
        size=mostly(1, 2, 3, bad=(0, 10_001)),
        placement=mostly(*map(str, Strategy), bad=("pack",)),
        max_restarts=mostly(0, 1, bad=(-1,)),
        start_deadline_s=mostly(None, 1.0, bad=(0.0, float("inf"))),
        roles=mostly([], bad=(["a"], ["9"], ["a", "b"])),
    ),
    node_labels=st.dictionaries(mostly("disk", "a.b/c", bad=("a b", "")), mostly("", "ssd", bad=("-",)), max_size=1),
    bundles=st.lists(some(cpus=AMOUNTS, gpus=AMOUNTS), max_size=2),
    actors=st.lists(
        st.builds(
            lambda name, path, given: {"name": name, "import_path": path, **given},
            mostly("a", "b", "c", bad=("9",)),
            mostly("m:A", bad=("m",)),
            ACTOR_OPTIONS,
        ),
        max_size=2,
    ),
)


@given(SPECS)
def test_every_description_survives_the_way(spec: DeploymentSpec) -> None:
    data = encode_deployment_spec(spec).SerializeToString()
    assert decode_deployment_spec(controller_pb2.DeploymentSpec.FromString(data)) == spec


@given(OPTIONS)
def test_what_options_accept_the_controller_accepts(options: dict[str, Any]) -> None:
    try:
        spec = make_spec("A", "m:A", options, (), {})
    except ConfigInvalidError:
        return
    assert application_violations(ApplicationSpec(name="app", ingress="A", deployments=(spec,))) == ()
    assert decode_deployment_spec(encode_deployment_spec(spec)) == spec
