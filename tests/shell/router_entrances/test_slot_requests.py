"""ReserveSlot at a router's entrance: what becomes of it, and that nothing is left of it however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from router import reserving, slot_requests
from serve_core.errors import ConfigInvalidError, DeploymentUnavailableError, DeploymentUnknownError, ServeError
from serve_core.model.endpoints import TableChange, TableVersion
from serve_core.v1 import router_pb2
from serve_core.wire.errors import decode_error
from tests.more_time import error_in_time
from tests.shell.router_entrances.harness import KEY, Entrance, route

pytestmark = pytest.mark.usefixtures("way")

METHOD = "/serve_core.v1.RouterService/ReserveSlot"
Answer = router_pb2.RouterServiceReserveSlotResponse

TIMES_S = (None, 90.0, 40.0)
"""None, one that leaves a replica all its time to answer, and one that does not."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is made to wait has not gone, however busy the machine is."""
    for module in (reserving, slot_requests):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 50.0)


def reserve(served: Entrance, timeout_s: float | None = None, **fields: Any) -> grpc.aio.UnaryUnaryCall[Any, Answer]:
    request = router_pb2.RouterServiceReserveSlotRequest(**{"application": "shop", **fields})
    return served.stub.ReserveSlot(request, timeout=timeout_s)


async def refused(call: grpc.aio.UnaryUnaryCall[Any, Answer]) -> ServeError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = decode_error(caught.value)
    assert error is not None
    return error


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)


async def until_nothing_is_left(served: Entrance) -> None:
    """No call is inside, or on its way to a replica."""
    await until(lambda: not served.gate.inside and not any(calls for _, calls in served.router.ongoing()))


@pytest.mark.parametrize("timeout_s", TIMES_S)
async def test_a_promise_names_its_replica(served: Entrance, timeout_s: float | None) -> None:
    answer = await reserve(served, timeout_s, slots=2)
    (desk,) = [replica.desk for replica in served.replicas]
    assert [answer.lease.slot_token] == desk.issued
    assert answer.lease.slots == 2
    assert answer.lease.expire_time.seconds == 2_000_000_000
    assert answer.lease.ttl.seconds == 10
    assert (answer.replica.replica_id, answer.replica.address) == ("r1", served.replicas[0].wire.address)
    assert served.sample("serve_core_slot_reservations_total", outcome="granted") == 1
    assert served.sample("grpc_server_call_started_total", grpc_method=METHOD) == 1
    assert served.sample("grpc_server_call_duration_seconds_count", grpc_method=METHOD, grpc_status="OK") == 1
    await until_nothing_is_left(served)


async def test_a_refusal_is_tried_elsewhere(pair: Entrance) -> None:
    pair.replicas[0].desk.full = True
    answers = [await reserve(pair) for _ in range(4)]
    assert {answer.replica.replica_id for answer in answers} == {"r2"}
    assert len(pair.replicas[1].desk.issued) == 4
    assert pair.sample("serve_core_slot_reservations_total", outcome="granted") == 4
    await until_nothing_is_left(pair)


async def test_a_replica_that_dies_while_it_is_asked_is_no_reason_to_doubt_another(pair: Entrance) -> None:
    for replica in pair.replicas:
        replica.desk.may_answer.clear()
    call = reserve(pair, 30.0)
    asked = [asyncio.ensure_future(replica.desk.asked.wait()) for replica in pair.replicas]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    dead, other = sorted(pair.replicas, key=lambda replica: not replica.desk.asked.is_set())
    for waiting in asked:
        waiting.cancel()
    other.desk.may_answer.set()
    dead.wire.cut()
    assert (await call).replica.replica_id == other.replica_id
    assert other.desk.watches == 1
    await until_nothing_is_left(pair)


async def test_where_all_are_full_it_waits_until_its_deadline(served: Entrance) -> None:
    served.replicas[0].desk.full = True

    def no_slot_in_time() -> float | None:
        return served.sample("serve_core_slot_reservations_total", outcome="no_slot_in_time")

    async def reserved(timeout_s: float) -> None:
        await reserve(served, timeout_s)

    # A machine that is busy may let the caller's own timer come first.
    await error_in_time(reserved, lambda _: no_slot_in_time())
    assert no_slot_in_time()
    await until_nothing_is_left(served)


@pytest.mark.parametrize("timeout_s", TIMES_S)
async def test_what_is_promised_to_a_caller_that_went_is_given_back(served: Entrance, timeout_s: float | None) -> None:
    desk = served.replicas[0].desk
    desk.may_answer.clear()
    call = reserve(served, timeout_s)
    await desk.asked.wait()
    call.cancel()
    await until(lambda: served.sample("serve_core_slot_reservations_total", outcome="cancelled") == 1)
    desk.may_answer.set()
    await desk.news.wait()
    assert desk.released == desk.issued
    await until_nothing_is_left(served)


async def test_what_cannot_be_is_refused_with_its_reason(served: Entrance) -> None:
    assert isinstance(await refused(reserve(served, application="zoo")), DeploymentUnknownError)
    assert isinstance(await refused(reserve(served, slots=100)), ConfigInvalidError)
    assert served.sample("serve_core_slot_reservations_total", outcome="deployment_unknown") == 1
    assert served.sample("serve_core_slot_reservations_total", outcome="config_invalid") == 1
    await until_nothing_is_left(served)


async def test_a_request_like_one_before_is_served_by_the_table_of_now(served: Entrance) -> None:
    def change(version: int, **changes: Any) -> TableChange:
        return TableChange(version=TableVersion("e", version), snapshot=False, **changes)

    assert (await reserve(served)).lease.slot_token
    served.router.apply(change(2, upserted_deployments=(route(available=False),)))
    assert isinstance(await refused(reserve(served)), DeploymentUnavailableError)
    served.router.apply(change(3, upserted_deployments=(route(),)))
    assert (await reserve(served)).lease.slot_token
    served.router.apply(change(4, removed_deployments=(KEY,)))
    assert isinstance(await refused(reserve(served)), DeploymentUnknownError)
    await until_nothing_is_left(served)


async def test_requests_that_differ_are_not_taken_for_one_another(served: Entrance) -> None:
    asked: list[dict[str, Any]] = [
        {"slots": 2},
        {"slots": 3},
        {},
        {"deployment": KEY.deployment},
        {"slots": 2, "deployment": KEY.deployment},
    ]
    for _ in range(2):
        assert [(await reserve(served, **fields)).lease.slots for fields in asked] == [2, 3, 1, 1, 2]
    assert isinstance(await refused(reserve(served, deployment="none")), DeploymentUnknownError)
    await until_nothing_is_left(served)


async def test_of_many_requests_that_all_differ_few_are_kept(served: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_requests, "READ_MAX", 4)
    for number in range(1, 20):
        assert (await reserve(served, ttl=Duration(seconds=number))).lease.slot_token
    assert len(served.requests.read) == 4


async def test_a_request_that_does_not_parse_is_refused_with_its_reason(served: Entrance) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = served.channel.unary_unary(METHOD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_of_many_at_once_those_whose_callers_went_leave_nothing(served: Entrance) -> None:
    desk = served.replicas[0].desk
    desk.may_answer.clear()
    calls = [reserve(served, TIMES_S[number % 3]) for number in range(60)]
    await until(lambda: served.sample("grpc_server_call_started_total", grpc_method=METHOD) == 60)
    for call in calls[::4]:
        call.cancel()
    await until(lambda: served.sample("serve_core_slot_reservations_total", outcome="cancelled") == 15)
    desk.may_answer.set()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    promised = {answer.lease.slot_token for answer in ended if isinstance(answer, Answer)}
    assert len(promised) == 45
    await until_nothing_is_left(served)
    await until(lambda: promised | set(desk.released) == set(desk.issued))
