"""The embedded router with a fake controller: tables, calls, selections, tickets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from router.embedded import EmbeddedRouter
from router.selection import ReplicaSelection, SelectionState, Ticket
from serve_core.errors import (
    ControllerUnreachableError,
    DeploymentUnknownError,
    MessageTooLargeError,
    MethodUnknownError,
    NoSlotInTimeError,
    ReplicaUnavailableError,
    SlotConsumedError,
    SlotUnknownError,
)
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey
from serve_core.model.payload import Encoding, Payload
from tests.more_time import error_in_time
from tests.shell.router.fakes import KEY, FakeController, FakeReplica, running, table, until_disconnected

ARGUMENTS = Payload(Encoding.JSON, b"[1]")


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    controller = FakeController()  # type: ignore[abstract]
    async with running(controller):
        yield controller


@pytest.fixture
async def replica(controller: FakeController) -> AsyncIterator[FakeReplica]:
    replica = FakeReplica(capacity=2)
    async with running(replica):
        controller.publish(replica)
        yield replica


@pytest.fixture
async def router(controller: FakeController, replica: FakeReplica) -> AsyncIterator[EmbeddedRouter]:
    router = EmbeddedRouter(controller.address)
    await router.start()
    yield router
    await router.close()


async def test_a_table_is_applied_and_acknowledged(
    controller: FakeController, router: EmbeddedRouter, replica: FakeReplica
) -> None:
    await controller.until_acknowledged(1)
    controller.publish(replica)
    await controller.until_acknowledged(2)
    assert not controller.subscriptions[0].HasField("acknowledged")


async def test_calls_go_on_while_the_controller_is_away_and_it_is_resubscribed_to(
    controller: FakeController, router: EmbeddedRouter, replica: FakeReplica
) -> None:
    await controller.until_acknowledged(1)
    await controller.stop()
    answer = await router.call("shop", "Model", "m", ARGUMENTS, timeout_s=30)
    assert answer == Payload(Encoding.JSON, b"[1]")
    await controller.start()
    await controller.until_subscribed(2)
    assert controller.subscriptions[1].acknowledged.version == 1
    assert await router.call("shop", "", "m", ARGUMENTS, timeout_s=30) == answer


async def test_a_change_that_does_not_follow_leads_to_a_whole_table(
    controller: FakeController, router: EmbeddedRouter, replica: FakeReplica
) -> None:
    await controller.until_acknowledged(1)
    controller.send(TableChange(version=TableVersion("another life", 9), snapshot=False))
    await controller.until_subscribed(2)
    assert not controller.subscriptions[1].HasField("acknowledged")
    await router.call("shop", "Model", "m", ARGUMENTS, timeout_s=30)


async def test_without_a_controller_the_start_fails_and_leaves_nothing() -> None:
    router = EmbeddedRouter("127.0.0.1:1", start_timeout_s=0.1)
    with pytest.raises(ControllerUnreachableError, match=r"127\.0\.0\.1:1"):
        await router.start()


async def test_waiting_for_a_deployment(controller: FakeController, router: EmbeddedRouter) -> None:
    assert (await router.wait_for("shop", timeout_s=0)).key == KEY
    with pytest.raises(DeploymentUnknownError, match="there are: shop"):
        await router.wait_for("other", timeout_s=0.01)


async def test_a_call_that_outlasts_its_time(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async def work(_: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    replica.work = work
    error = await error_in_time(
        lambda timeout_s: router.call("shop", "Model", "m", ARGUMENTS, timeout_s=timeout_s), lambda _: replica.served
    )
    assert isinstance(error, TimeoutError)
    await replica.until(lambda: replica.load.held == 0)


async def test_streams(router: EmbeddedRouter) -> None:
    async def items() -> AsyncIterator[Payload]:
        yield Payload(Encoding.JSON, b"2")
        yield Payload(Encoding.JSON, b"3")

    answers = router.stream("shop", "Model", "m", ARGUMENTS, items=items(), timeout_s=30)
    assert [answer.data async for answer in answers] == [b"[1]", b"2", b"3"]


async def test_choose_look_dispatch(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        assert (selection.replica_id, selection.address) == (replica.name, replica.address)
        assert (selection.node_id, selection.zone, selection.gang.rank) == ("node-0", "zone-a", 0)
        assert (selection.metadata, selection.lease.slots) == ({"color": "blue"}, 1)
        assert replica.load.reserved == 1
        answer = await router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)
    assert answer.data == b"[1]"
    assert len(replica.served) == 1
    assert replica.load.held == 0


async def test_leaving_without_dispatch_releases(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        assert replica.load.reserved == 1
    assert replica.load.held == 0
    with pytest.raises(SlotConsumedError, match="was released before"):
        router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)


async def test_an_exception_inside_the_block_releases(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async def choose_and_fail() -> None:
        async with router.choose_replica("shop", "Model", timeout_s=30):
            raise LookupError

    with pytest.raises(LookupError):
        await choose_and_fail()
    assert replica.load.held == 0


async def test_a_cancelled_block_releases(router: EmbeddedRouter, replica: FakeReplica) -> None:
    inside = asyncio.Event()

    async def choose_and_wait() -> None:
        async with router.choose_replica("shop", "Model", timeout_s=30):
            inside.set()
            await asyncio.Event().wait()

    choosing = asyncio.ensure_future(choose_and_wait())
    await inside.wait()
    choosing.cancel()
    await asyncio.wait({choosing})
    assert choosing.cancelled()
    await replica.until(lambda: replica.load.held == 0)


@pytest.mark.parametrize("timeout_s", [30.0, 3.0])
async def test_a_choice_that_is_cancelled_while_the_replica_is_asked_holds_nothing(
    router: EmbeddedRouter, replica: FakeReplica, timeout_s: float
) -> None:
    await router.call("shop", "Model", "m", ARGUMENTS, timeout_s=30)
    replica.reserve_gate = asyncio.Event()

    async def choose() -> None:
        async with router.choose_replica("shop", "Model", timeout_s=timeout_s):
            raise AssertionError

    replica.changed.clear()
    choosing = asyncio.ensure_future(choose())
    await replica.changed.wait()
    choosing.cancel()
    await asyncio.wait({choosing})
    assert choosing.cancelled()
    replica.reserve_gate.set()
    await replica.until(lambda: len(replica.requests) == 1 and replica.load.held == 0)
    replica.reserve_gate = None
    async with router.choose_replica("shop", "Model", timeout_s=30, slots=2):
        assert replica.load.reserved == 2


@pytest.mark.parametrize("timeout_s", [30.0, 3.0])
async def test_a_choice_that_is_refused_waits_until_a_slot_is_free(
    router: EmbeddedRouter, replica: FakeReplica, timeout_s: float
) -> None:
    await router.call("shop", "Model", "m", ARGUMENTS, timeout_s=30)
    replica.take(2)

    async def choose() -> int:
        async with router.choose_replica("shop", "Model", timeout_s=timeout_s):
            return replica.load.reserved

    choosing = asyncio.ensure_future(choose())
    await replica.until(lambda: replica.refused == 1)
    replica.free(1)
    assert await choosing == 1


async def test_a_selection_is_good_for_one_dispatch(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        first = router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)
        with pytest.raises(SlotConsumedError, match="was dispatched before"):
            router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)
        await first
    assert len(replica.served) == 1


async def test_a_stream_that_is_refused_before_its_token_is_looked_at_leaves_no_slot_taken(
    router: EmbeddedRouter, replica: FakeReplica
) -> None:
    replica.refuses = MethodUnknownError("there is no method 'm'")
    with pytest.raises(MethodUnknownError):
        await anext(router.stream("shop", "Model", "m", ARGUMENTS, timeout_s=30))
    await replica.until(lambda: replica.load.held == 0)


async def test_a_dispatch_that_is_refused_before_its_token_is_looked_at_leaves_no_slot_taken(
    router: EmbeddedRouter, replica: FakeReplica
) -> None:
    replica.refuses = MethodUnknownError("there is no method 'm'")
    async with router.choose_replica("shop", "Model", timeout_s=30) as first:
        with pytest.raises(MethodUnknownError):
            await router.dispatch(first, "m", ARGUMENTS, timeout_s=30)
    async with router.choose_replica("shop", "Model", timeout_s=30) as second:
        with pytest.raises(MethodUnknownError):
            await anext(router.dispatch_stream(second, "m", ARGUMENTS, timeout_s=30))
    await replica.until(lambda: replica.load.held == 0)


async def test_a_dispatch_that_is_too_large_leaves_no_slot_taken(
    controller: FakeController, replica: FakeReplica
) -> None:
    router = EmbeddedRouter(controller.address, max_message_bytes=1024)
    await router.start()
    large = Payload(Encoding.JSON, b"1" * 1025)
    async with router.choose_replica("shop", "Model", timeout_s=30) as first:
        with pytest.raises(MessageTooLargeError):
            await router.dispatch(first, "m", large, timeout_s=30)
    async with router.choose_replica("shop", "Model", timeout_s=30) as second:
        with pytest.raises(MessageTooLargeError):
            await anext(router.dispatch_stream(second, "m", large, timeout_s=30))
    await replica.until(lambda: replica.load.held == 0)
    await router.close()


async def test_a_selection_is_refused_for_another_deployment_and_stays_good(
    controller: FakeController, router: EmbeddedRouter, replica: FakeReplica
) -> None:
    other = DeploymentRoute(key=DeploymentKey("shop", "Other"), ingress=False, available=True)
    controller.send(TableChange(version=TableVersion("e1", 2), snapshot=False, upserted_deployments=(other,)))
    await router.wait_for("shop", "Other", timeout_s=30)
    async with router.choose_replica("shop", "", timeout_s=30) as selection:
        router.check_target("shop", "", selection)
        with pytest.raises(SlotUnknownError, match=r"chosen for shop\.Model, not for shop\.Other"):
            router.check_target("shop", "Other", selection)
        assert (await router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)).data == b"[1]"


async def test_dispatch_uses_the_selection_up_before_it_runs(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        started = asyncio.ensure_future(router.dispatch(selection, "m", ARGUMENTS, timeout_s=30))
    assert (await started).data == b"[1]"


async def test_a_lost_replica(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        await replica.stop()
        await until_disconnected(router.router, replica)
        with pytest.raises(ReplicaUnavailableError):
            await router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)


async def test_the_lease_is_renewed_inside_the_block(router: EmbeddedRouter, replica: FakeReplica) -> None:
    replica.ttl_s = 0.05
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        first = selection.lease.expires_at
        await replica.until(lambda: len(replica.renewed) >= 2)
        assert selection.lease.expires_at > first
        await router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)
        renewed = len(replica.renewed)
    await asyncio.sleep(0)
    assert len(replica.renewed) == renewed


async def test_a_lease_that_cannot_be_renewed_is_told_at_dispatch(router: EmbeddedRouter, replica: FakeReplica) -> None:
    replica.ttl_s = 0.05
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        replica.tokens.clear()
        await replica.until(lambda: bool(replica.renewed))
        await until_state(selection, SelectionState.LOST)
        with pytest.raises(SlotUnknownError):
            router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)


async def until_state(selection: ReplicaSelection, state: SelectionState) -> None:
    keeper = next(task for task in asyncio.all_tasks() if "renew" in task.get_name())
    await asyncio.wait({keeper}, timeout=30)
    assert selection.state is state


async def test_a_ticket_is_dispatched_by_another_router(
    controller: FakeController, router: EmbeddedRouter, replica: FakeReplica
) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        text = str(await selection.ticket())
        with pytest.raises(SlotConsumedError, match="turned into a ticket"):
            router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)
    assert replica.renewed[-1].detach
    # It outlives the router that made it.
    await router.close()
    await replica.until(lambda: replica.watchers == 0)
    assert replica.load.reserved == 1
    other = EmbeddedRouter(controller.address)
    await other.start()
    try:
        ticket = Ticket.parse(text)
        assert (ticket.replica_id, ticket.address) == (replica.name, replica.address)
        assert (await other.dispatch(ticket, "m", ARGUMENTS, timeout_s=30)).data == b"[1]"
        with pytest.raises(SlotConsumedError):
            await other.dispatch(ticket, "m", ARGUMENTS, timeout_s=30)
    finally:
        await other.close()
    assert len(replica.served) == 1


async def test_a_held_slot_counts_as_load_here(router: EmbeddedRouter, replica: FakeReplica) -> None:
    replica.capacity = 1
    replica.set_phase(replica.phase)
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        waiting = asyncio.ensure_future(router.call("shop", "Model", "m", ARGUMENTS, timeout_s=30))
        await router.dispatch(selection, "m", ARGUMENTS, timeout_s=30)
    await waiting
    assert replica.most_ongoing == 1


async def test_three_selections_at_once_are_three_slots(controller: FakeController) -> None:
    replica = FakeReplica(capacity=3)
    async with running(replica):
        controller.publish(replica)
        router = EmbeddedRouter(controller.address)
        await router.start()
        entered, leave = asyncio.Barrier(4), asyncio.Event()

        async def hold() -> None:
            async with router.choose_replica("shop", "Model", timeout_s=30):
                await entered.wait()
                await leave.wait()

        holders = [asyncio.ensure_future(hold()) for _ in range(3)]
        await entered.wait()
        assert replica.load.reserved == 3
        leave.set()
        await asyncio.gather(*holders)
        assert replica.load.held == 0
        await router.close()


async def test_choose_then_stream(router: EmbeddedRouter, replica: FakeReplica) -> None:
    async with router.choose_replica("shop", "Model", timeout_s=30) as selection:
        answers = router.dispatch_stream(selection, "m", ARGUMENTS, timeout_s=30)
        assert [answer.data async for answer in answers] == [b"[1]"]
        with pytest.raises(SlotConsumedError):
            router.dispatch_stream(selection, "m", ARGUMENTS, timeout_s=30)
    assert (len(replica.served), replica.load.held, replica.refused) == (1, 0, 0)


async def test_two_deployments_are_chosen_side_by_side(controller: FakeController) -> None:
    prefill, decode = FakeReplica(), FakeReplica("shop.Decode.a-0", key=DeploymentKey("shop", "Decode"))
    async with running(prefill, decode):
        controller.publish(prefill)
        router = EmbeddedRouter(controller.address)
        await router.start()
        await controller.until_acknowledged(1)
        route = DeploymentRoute(key=decode.key, ingress=False, available=True)
        change = TableChange(
            version=TableVersion("e1", 2),
            snapshot=False,
            upserted_deployments=(route,),
            upserted_replicas=(decode.replica,),
        )
        controller.send(change)
        await router.wait_for("shop", "Decode", timeout_s=30)
        async with AsyncExitStack() as stack:
            chosen = await asyncio.gather(
                *(
                    stack.enter_async_context(router.choose_replica("shop", name, timeout_s=30))
                    for name in ("Model", "Decode")
                )
            )
            assert [selection.replica_id for selection in chosen] == [prefill.name, decode.name]
            assert (prefill.load.reserved, decode.load.reserved) == (1, 1)
            await router.dispatch(chosen[1], "m", ARGUMENTS, timeout_s=30)
        assert (prefill.load.held, decode.load.held) == (0, 0)
        assert (len(prefill.served), len(decode.served)) == (0, 1)
        await router.close()


async def test_the_error_inside_the_block_is_not_masked_by_a_release_that_fails(
    router: EmbeddedRouter, replica: FakeReplica
) -> None:
    async def choose_and_fail() -> None:
        async with router.choose_replica("shop", "Model", timeout_s=30):
            await replica.stop()
            await until_disconnected(router.router, replica)
            raise LookupError

    with pytest.raises(LookupError):
        await choose_and_fail()


async def test_a_second_cancel_during_the_release_leaks_nothing(router: EmbeddedRouter, replica: FakeReplica) -> None:
    inside = asyncio.Event()

    async def choose_and_wait() -> None:
        async with router.choose_replica("shop", "Model", timeout_s=30):
            inside.set()
            await asyncio.Event().wait()

    choosing = asyncio.ensure_future(choose_and_wait())
    await inside.wait()
    choosing.cancel()
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(choosing.cancel))
    await asyncio.wait({choosing})
    await replica.until(lambda: replica.load.held == 0)


async def test_a_deployment_without_replicas_is_waited_for(controller: FakeController, replica: FakeReplica) -> None:
    controller.publish()
    router = EmbeddedRouter(controller.address)
    await router.start()
    with pytest.raises(NoSlotInTimeError):
        await router.call("shop", "Model", "m", ARGUMENTS, timeout_s=0.1)
    waiting = asyncio.ensure_future(router.call("shop", "Model", "m", ARGUMENTS, timeout_s=30))
    controller.publish(replica)
    assert (await waiting).data == b"[1]"
    await router.close()


async def test_a_table_that_comes_while_it_closes_is_not_taken(
    controller: FakeController, replica: FakeReplica
) -> None:
    controller.publish()
    router = EmbeddedRouter(controller.address)
    await router.start()
    closing = asyncio.ensure_future(router.close())
    await asyncio.sleep(0)
    router.router.apply(table(controller.version + 1, replica))
    await closing
    assert router.router.replicas(KEY) == []
