"""What operators change: what is wanted. Records in, new records out, or an error and nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_core.errors import (
    ConfigInvalidError,
    DeploymentUnknownError,
    FieldViolation,
    RevisionConflictError,
)
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, NodeId, RevisionId
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan.announce import changed_in_place
from serve_core.plan.autoscaler import Rescale
from serve_core.plan.bounds import as_scaled, bounds_of, outside_bounds, scales_by_itself
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.persistent import with_changes
from serve_core.plan.records import (
    REVISIONS_MAX,
    ApplicationRecord,
    DeploymentRecord,
    NodeRecord,
    Records,
    RevisionRecord,
)
from serve_core.plan.revision import revision_id
from serve_core.plan.validate import application_violations
from serve_core.plan.validate_gang import num_replicas_violations


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to save, and what to answer. Nothing to save means that it was so already.

    Attributes:
        saved_application: The application's new record, if it changed.
        saved_deployments: New and changed deployments, to be planned for.
        saved_nodes: Nodes that are being drained, or until another time.
        deleted_nodes: Nodes that are not drained any more.
        generation: The application's generation, after the change; 0 if it is about none.
        revisions: The target revision of each wanted deployment, by name.
        events: What happened, for people; saved in the same transaction.
    """

    saved_application: ApplicationRecord | None = None
    saved_deployments: tuple[DeploymentRecord, ...] = ()
    saved_nodes: tuple[NodeRecord, ...] = ()
    deleted_nodes: tuple[NodeId, ...] = ()
    generation: int = 0
    revisions: Mapping[str, RevisionId] = field(default_factory=dict)
    events: tuple[Event, ...] = ()


def apply_change(records: Records, change: Change) -> Records:
    """The records once a change is saved."""
    application = change.saved_application
    return replace(
        records,
        applications=with_changes(records.applications, {application.name: application} if application else {}),
        deployments=with_changes(records.deployments, {saved.key: saved for saved in change.saved_deployments}),
        nodes=with_changes(records.nodes, {saved.node_id: saved for saved in change.saved_nodes}, change.deleted_nodes),
    )


def deploy(
    records: Records,
    spec: ApplicationSpec,
    *,
    now: float,
    expected_generation: int | None = None,
    path: str = "application",
) -> Change:
    """Makes an application be as described. The same description again changes nothing, unless it was given up.

    Args:
        records: What is persisted.
        spec: The description, whole: deployments that it does not name are removed.
        now: Seconds since the Unix epoch.
        expected_generation: The generation that the caller decided upon, 0 for no such application; None for any.
        path: Where the description was, for the paths of violations.

    Raises:
        ConfigInvalidError: It is not valid; says everything that is wrong with it.
        RevisionConflictError: The application is at another generation.
    """
    violations = application_violations(spec, path=path)
    if violations:
        raise ConfigInvalidError(violations, what=f"the application {spec.name!r}")
    before = records.applications.get(spec.name)
    at = before.generation if before is not None else 0
    if expected_generation is not None and expected_generation != at:
        raise RevisionConflictError(
            f"application '{spec.name}' is at generation {at}, not {expected_generation}; "
            "read its status, and decide anew",
            details={
                "application": spec.name,
                "generation": str(at),
                "expectedGeneration": str(expected_generation),
            },
        )
    generation = at + 1
    changed = [
        record
        for wanted in spec.deployments
        if (record := _deployed(records, spec.name, wanted, generation=generation, now=now)) is not None
    ]
    names = {wanted.name for wanted in spec.deployments}
    changed += [
        replace(record, deleting=True, generation=generation)
        for record in records.deployments_of(spec.name)
        if record.key.deployment not in names and not record.deleting
    ]
    revisions = {wanted.name: revision_id(wanted) for wanted in spec.deployments}
    same = before is not None and before.ingress == spec.ingress and not before.deleting
    if same and not changed:
        return Change(generation=at, revisions=revisions)
    return Change(
        saved_application=ApplicationRecord(name=spec.name, ingress=spec.ingress, generation=generation),
        saved_deployments=tuple(changed),
        generation=generation,
        revisions=revisions,
        events=tuple(
            event
            for record in changed
            if not record.deleting and record.key in records.deployments
            for event in changed_in_place(records.deployments[record.key], record, now=now)
        ),
    )


def delete(records: Records, application: str) -> Change:
    """Drains and removes an application.

    Raises:
        DeploymentUnknownError: There is no such application.
    """
    before = _application(records, application)
    if before.deleting:
        return Change(generation=before.generation)
    generation = before.generation + 1
    return Change(
        saved_application=replace(before, deleting=True, generation=generation),
        saved_deployments=tuple(
            replace(record, deleting=True, generation=generation) for record in records.deployments_of(application)
        ),
        generation=generation,
    )


def delete_all(records: Records) -> tuple[Change, ...]:
    """Drains and removes everything."""
    return tuple(delete(records, name) for name in sorted(records.applications))


def scale(records: Records, key: DeploymentKey, *, num_replicas: int) -> Change:
    """Changes how many replicas a deployment has. One that scales by itself goes on from there.

    Raises:
        ConfigInvalidError: The number is not possible, makes no whole gangs of the target revision, or is outside the bounds
            between which the deployment scales by itself.
        DeploymentUnknownError: There is no such deployment.
    """
    record = _deployment(records, key)
    spec = record.target_spec
    violations = list(num_replicas_violations(num_replicas, size=spec.gang.size, path="num_replicas"))
    if outside := outside_bounds(spec.autoscaling, num_replicas):
        violations.append(FieldViolation("num_replicas", f"{outside}; deploy other bounds"))
    if violations:
        raise ConfigInvalidError(violations, what=f"the scale of {key}")
    scaled = replace(record, num_replicas=num_replicas, scaled_for="")
    if record.has_given_up and record.terminal is None:
        return _changed(records, _tried_anew(scaled))
    if record.num_replicas == num_replicas:
        return _unchanged(records, key)
    return _changed(records, scaled)


def rescale(records: Records, decided: Rescale) -> Change:
    """Gives a deployment the number of replicas that was decided by what is asked of it.

    What operators want is the same as before, and so is the generation; what was given up stays given up. Nothing changes
    if what was decided upon is not so any more.
    """
    record = records.deployments.get(decided.key)
    bounds = bounds_of(record.target_spec) if record is not None else None
    if record is None or bounds is None or not scales_by_itself(record) or record.num_replicas != decided.instead_of:
        return Change()
    if bounds.nearest(decided.num_replicas) != decided.num_replicas:
        return Change()
    return Change(saved_deployments=(replace(record, num_replicas=decided.num_replicas, scaled_for=decided.why),))


def pause(records: Records, key: DeploymentKey, *, paused: bool) -> Change:
    """Holds a deployment's change of revision where it is, or lets it go on; one that has failed is tried again.

    Raises:
        DeploymentUnknownError: There is no such deployment.
    """
    record = _deployment(records, key)
    if not paused and record.has_given_up:
        return _changed(records, _tried_anew(replace(record, paused=False)))
    return _unchanged(records, key) if record.paused is paused else _changed(records, replace(record, paused=paused))


def roll_back(records: Records, key: DeploymentKey, *, revision: str = "") -> Change:
    """Goes back to a kept revision; empty means the last other one that did not fail.

    Raises:
        ConfigInvalidError: That revision is not kept, or there is none to go back to.
        DeploymentUnknownError: There is no such deployment.
    """
    record = _deployment(records, key)
    others = [kept.revision for kept in record.revisions if kept.revision != record.target]
    if not revision and not others:
        violation = FieldViolation("revision", f"{key} has only one revision, {record.target}")
        raise ConfigInvalidError((violation,), what=f"the roll back of {key}")
    failed = record.rollout.failed_revision if record.rollout is not None else None
    chosen = RevisionId(revision) if revision else next((one for one in others if one != failed), others[0])
    kept = record.revision(chosen)
    if kept is None:
        known = ", ".join(one.revision for one in record.revisions)
        violation = FieldViolation("revision", f"{chosen!r} is not kept; {key} has {known}")
        raise ConfigInvalidError((violation,), what=f"the roll back of {key}")
    if chosen == record.target:
        return _unchanged(records, key)
    if kept.spec.autoscaling is not None:
        record = replace(record, num_replicas=as_scaled(kept.spec, record).num_replicas)
    return _changed(records, _retarget(record, kept, records))


def _deployed(
    records: Records, application: str, spec: DeploymentSpec, *, generation: int, now: float
) -> DeploymentRecord | None:
    """The record of a deployment as described; None if it is so already."""
    key = DeploymentKey(application, spec.name)
    revision = revision_id(spec)
    record = records.deployments.get(key)
    spec = as_scaled(spec, record)
    if record is None:
        return DeploymentRecord(
            key=key,
            generation=generation,
            target=revision,
            num_replicas=spec.num_replicas,
            revisions=(RevisionRecord(revision=revision, spec=spec, created_at=now),),
        )
    as_wanted = replace(record.target_spec, num_replicas=record.num_replicas)
    if spec == as_wanted and revision == record.target and not record.deleting and not record.has_given_up:
        return None
    kept = record.revision(revision)
    created_at = kept.created_at if kept is not None else now
    target = RevisionRecord(revision=revision, spec=spec, created_at=created_at)
    last_good = record.last_good if not record.deleting or _stays(records, record) else None
    scaled_for = record.scaled_for if record.num_replicas == spec.num_replicas else ""
    record = replace(
        record,
        num_replicas=spec.num_replicas,
        scaled_for=scaled_for,
        deleting=False,
        last_good=last_good,
        generation=generation,
    )
    return _retarget(record, target, records)


def _stays(records: Records, record: DeploymentRecord) -> bool:
    """Whether what served last still does though it is being removed: the removal was not planned for yet."""
    return any(gang.revision == record.last_good and gang.phase in LIVE for gang in records.gangs_of(record.key))


def _retarget(record: DeploymentRecord, target: RevisionRecord, records: Records) -> DeploymentRecord:
    """The record with this target, which is the newest of its revisions. A target that was given up is tried anew."""
    others = [kept for kept in record.revisions if kept.revision != target.revision]
    in_use = {gang.revision for gang in records.everything_of(record.key)} | {record.last_good}
    kept = [one for index, one in enumerate(others, 1) if index < REVISIONS_MAX or one.revision in in_use]
    record = replace(record, target=target.revision, revisions=(target, *kept))
    if not record.has_given_up and target.revision == records.deployments[record.key].target:
        return record
    by_itself = record.rollout is not None and record.rollout.paused_by_share
    return _tried_anew(replace(record, paused=record.paused and not by_itself))


def _tried_anew(record: DeploymentRecord) -> DeploymentRecord:
    return replace(
        record,
        start_failures=0,
        crashes=0,
        crashed_at=0.0,
        retry_at=0.0,
        good_retry_at=0.0,
        terminal=None,
        vacant_places=(),
        given_up=0,
        given_up_for=None,
        actors=tuple(replace(actor, failures=0, retry_at=0.0, given_up=None) for actor in record.actors),
    )


def _application(records: Records, name: str) -> ApplicationRecord:
    record = records.applications.get(name)
    if record is None:
        known = ", ".join(sorted(records.applications)) or "none"
        raise DeploymentUnknownError(
            f"there is no application '{name}'; there is: {known}", details={"application": name}
        )
    return record


def _deployment(records: Records, key: DeploymentKey) -> DeploymentRecord:
    _application(records, key.application)
    record = records.deployments.get(key)
    if record is None or record.deleting:
        known = ", ".join(one.key.deployment for one in records.deployments_of(key.application) if not one.deleting)
        raise DeploymentUnknownError(
            f"application '{key.application}' has no deployment '{key.deployment}'; it has: {known or 'none'}",
            details={"application": key.application, "deployment": key.deployment},
        )
    return record


def _unchanged(records: Records, key: DeploymentKey) -> Change:
    record = records.deployments[key]
    return Change(
        generation=records.applications[key.application].generation, revisions={key.deployment: record.target}
    )


def _changed(records: Records, record: DeploymentRecord) -> Change:
    application = records.applications[record.key.application]
    generation = application.generation + 1
    return Change(
        saved_application=replace(application, generation=generation),
        saved_deployments=(replace(record, generation=generation),),
        generation=generation,
        revisions={record.key.deployment: record.target},
    )
