"""Which actors a revision has, and what the process of one runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve_core.model.actor import SHARED_SCOPE, ActorKey, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import RevisionId
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.once import OncePerSpec
from serve_core.plan.revision import actor_version


def actor_key(spec: DeploymentSpec, revision: RevisionId, actor: ActorSpec) -> ActorKey:
    """The key of one actor of a revision; ``spec`` is the revision's."""
    if actor.shared is ActorSharing.DEPLOYMENT:
        return ActorKey(actor.name, SHARED_SCOPE + _versions(spec)[actor.name])
    return ActorKey(actor.name, revision)


def actor_keys(spec: DeploymentSpec, revision: RevisionId) -> Sequence[ActorKey]:
    """The keys of a revision's actors, in the order of its description."""
    return [actor_key(spec, revision, actor) for actor in spec.actors]


def actor_spec(spec: DeploymentSpec, actor: ActorSpec) -> DeploymentSpec:
    """What the process of one of a description's actors runs, as the description of a deployment of one: so it is placed,
    started, watched and drained as a replica is. ``actors`` holds the actor itself, for what only an actor has.
    """
    return _specs(spec)[actor.name]


def _actor_spec(spec: DeploymentSpec, actor: ActorSpec) -> DeploymentSpec:
    return replace(
        spec,
        import_path=actor.import_path,
        init_arguments=actor.init_arguments,
        num_replicas=1,
        resources=actor.resources,
        env={**spec.env, **actor.env},
        max_ongoing_requests=actor.max_concurrency,
        start_deadline_s=actor.start_deadline_s,
        health=actor.health,
        max_start_failures=actor.max_restarts + 1,
        user_config=None,
        metadata={},
        thread_count=0,
        gang=GangPolicy(),
        node_labels={},
        bundles=(),
        actors=(actor,),
    )


_versions = OncePerSpec(lambda spec: {actor.name: actor_version(spec, actor) for actor in spec.actors})
_specs = OncePerSpec(lambda spec: {actor.name: _actor_spec(spec, actor) for actor in spec.actors})
