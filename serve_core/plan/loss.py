"""What becomes of a gang that loses a member after it was ready, as its deployment says: see ``OnMemberFailure``.

Either way the others are not cut off: they finish what they have while the gang is replaced, or stay while the member is.
"""

from __future__ import annotations

from serve_core.model.gang import OnMemberFailure
from serve_core.plan.classify import Verdict
from serve_core.plan.lifecycle import Trigger
from serve_core.plan.members import Judgements
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord
from serve_core.plan.restarts import has_restarts_left, restarts_in_a_row
from serve_core.plan.starting import named

_GONE = (Verdict.NODE_LOST, Verdict.UNSEEN, Verdict.REFUSED, Verdict.EXITED, Verdict.SILENT)
_ILL = (Verdict.FAILED, Verdict.LEAVING)


def losses(judged: Judgements) -> Judgements:
    """The members that are lost, or ill, or leave by themselves; the lost first."""
    failed = [(member, judgement) for member, judgement in judged if judgement.failure is not None]
    gone = [one for one in failed if one[1].verdict in _GONE]
    return gone + [one for one in failed if one[1].verdict in _ILL]


def lost(draft: Draft, gang: GangRecord, judged: Judgements, broken: Judgements) -> GangRecord:
    """Replaces these members, or ends the gang: one failure, however many they are."""
    (first, judgement), policy = broken[0], draft.spec(gang).gang
    if judgement.failure is None:
        return gang
    failure = named(gang, first, judgement.failure)
    in_a_row = restarts_in_a_row(gang, draft.policy, now=draft.now) + 1
    if (
        policy.on_member_failure is OnMemberFailure.RESTART_REPLICA
        and len(broken) < len(judged)
        and not any(one.verdict is Verdict.NODE_LOST for _, one in broken)
        and has_restarts_left(policy, in_a_row)
        and not draft.deployment.deleting
    ):
        return draft.repair(gang, [member.replica_id for member, _ in broken], failure, in_a_row=in_a_row)
    gone = [one for one in broken if one[1].verdict in _GONE]
    if len(gone) == gang.size or (gang.size > 1 and policy.abort_in_flight):
        return draft.fail(gang, Trigger.LOST, failure)
    return draft.fail(gang, Trigger.BROKEN if gone else Trigger.ILL, failure)
