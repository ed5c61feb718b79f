"""What every backend must do, on each of them; then what concerns processes of this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_core.backend.accounting import NodeOffer
from serve_core.backend.identity import ProcessIdentity, find_marked, identify, open_pidfd
from serve_core.backend.local import MARKER, LocalBackend
from serve_core.backend.offer import detect_offer
from serve_core.backend.port import (
    Backend,
    BundleRequest,
    Placement,
    PlacementRefused,
    PlacementRequest,
    ProcessExited,
    ProcessSpec,
)
from serve_core.errors import ImportFailedError, StoreUnusableError
from serve_core.model.bundles import ChildBundle, parse_bundles
from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.testing import FakeBackend

OFFERS = (
    NodeOffer(node_id=NodeId("node-0"), zone="a", total=Resources(cpus=2.0, gpus=2.0, custom={"disk": 1.0})),
    NodeOffer(node_id=NodeId("node-1"), zone="b", total=Resources(cpus=2.0, memory_bytes=1000)),
)
ROOT = Path(__file__).parents[2]
PROGRAM = "tests.contract.program"
WAYS = {"spawn": None, "fork": PROGRAM}
"""What a local backend forks."""


def _python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", PROGRAM, code, *arguments)


FOREVER = _python("import signal; signal.pause()")


def _request(placement_id: str, *bundles: Resources, strategy: Strategy = Strategy.PACK) -> PlacementRequest:
    return PlacementRequest(
        placement_id=placement_id,
        bundles=tuple(BundleRequest(resources=resources) for resources in bundles),
        strategy=strategy,
    )


def _spec(process_id: str, command: tuple[str, ...] = FOREVER, **fields: object) -> ProcessSpec:
    return ProcessSpec(process_id=process_id, command=command, placement_id="p", **fields)  # type: ignore[arg-type]


def _local(tmp_path: Path, forks: str | None = None) -> LocalBackend:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return LocalBackend(state_dir=tmp_path / "state", offers=OFFERS, environment=environment, forks=forks)


def _reap(pid: int) -> None:
    """Waits for a child that its backend has let go of, as the init process would for a real orphan."""
    with contextlib.suppress(ChildProcessError):  # A forked one is a real orphan.
        os.waitpid(pid, 0)


async def _next(events: AsyncIterator[ProcessExited]) -> ProcessExited:
    async with asyncio.timeout(60):
        return await anext(events)


async def _end(backend: Backend) -> None:
    """Leaves no process behind, whatever the test did."""
    events = backend.events()
    for process in (await backend.list()).processes:
        await backend.stop(process.process_id, kill=True)
        await _next(events)
    await backend.close()


@pytest.fixture(params=["fake", *WAYS])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    made: Backend = FakeBackend(OFFERS) if request.param == "fake" else _local(tmp_path, WAYS[request.param])
    await made.open()
    yield made
    await _end(made)


@pytest.fixture(params=WAYS)
def forks(request: pytest.FixtureRequest) -> str | None:
    return WAYS[request.param]


@pytest.fixture
async def local(tmp_path: Path, forks: str | None) -> AsyncIterator[LocalBackend]:
    made = _local(tmp_path, forks)
    await made.open()
    await made.reserve(_request("p", Resources()))
    yield made
    await _end(made)


async def test_a_placement_is_granted_once_for_its_id(backend: Backend) -> None:
    first = await backend.reserve(_request("p", Resources(cpus=1.5)))
    again = await backend.reserve(_request("p", Resources(cpus=1.5)))
    assert isinstance(first, Placement)
    assert again == first
    assert sum(node.used.cpus for node in backend.nodes()) == 1.5
    assert (await backend.list()).placements == (first,)


async def test_a_placement_is_whole_or_absent(backend: Backend) -> None:
    refused = await backend.reserve(_request("p", *[Resources(cpus=1.5)] * 3))
    assert isinstance(refused, PlacementRefused)
    assert not refused.feasible
    assert "1.5 CPUs" in refused.message
    assert "node-0" in refused.message
    assert all(node.used == Resources() for node in backend.nodes())
    assert (await backend.list()).placements == ()


async def test_what_would_fit_later_is_feasible(backend: Backend) -> None:
    await backend.reserve(_request("a", Resources(cpus=2.0), Resources(cpus=2.0)))
    refused = await backend.reserve(_request("b", Resources(cpus=0.1)))
    assert isinstance(refused, PlacementRefused)
    assert refused.feasible
    await backend.free("a")
    assert isinstance(await backend.reserve(_request("b", Resources(cpus=0.1))), Placement)


async def test_freeing_twice_frees_once(backend: Backend) -> None:
    await backend.reserve(_request("a", Resources(cpus=1.0)))
    await backend.reserve(_request("b", Resources(cpus=1.0)))
    await backend.free("a")
    await backend.free("a")
    await backend.free("never")
    assert sum(node.used.cpus for node in backend.nodes()) == 1.0


async def test_fractions_add_up_exactly(backend: Backend) -> None:
    for number in range(40):
        assert isinstance(await backend.reserve(_request(f"p{number}", Resources(cpus=0.1))), Placement)
    assert isinstance(await backend.reserve(_request("more", Resources(cpus=0.0001))), PlacementRefused)


async def test_every_kind_of_resource_counts(backend: Backend) -> None:
    for scarce in (Resources(memory_bytes=1000), Resources(custom={"disk": 1.0}), Resources(gpus=2.0)):
        assert isinstance(await backend.reserve(_request("a", scarce)), Placement)
        assert isinstance(await backend.reserve(_request("b", scarce)), PlacementRefused)
        await backend.free("a")


async def test_a_fraction_shares_one_gpu_and_whole_ones_are_not_shared(backend: Backend) -> None:
    halves = [await backend.reserve(_request(f"h{number}", Resources(gpus=0.5))) for number in range(2)]
    whole = await backend.reserve(_request("w", Resources(gpus=1.0)))
    granted = [result.bundles[0].gpus for result in (*halves, whole) if isinstance(result, Placement)]
    assert granted == [(0,), (0,), (1,)]
    assert isinstance(await backend.reserve(_request("x", Resources(gpus=0.1))), PlacementRefused)


async def test_a_bundle_gets_the_node_and_the_gpu_that_it_names(backend: Backend) -> None:
    def pinned(placement_id: str, node: str, gpus: tuple[int, ...]) -> PlacementRequest:
        bundle = BundleRequest(resources=Resources(cpus=1.0, gpus=0.5), node_id=NodeId(node), gpus=gpus)
        return PlacementRequest(placement_id=placement_id, bundles=(bundle,))

    granted = await backend.reserve(pinned("a", "node-0", (1,)))
    assert isinstance(granted, Placement)
    assert (granted.bundles[0].node_id, granted.bundles[0].zone, granted.bundles[0].gpus) == ("node-0", "a", (1,))
    for refused in (pinned("b", "node-1", (0,)), pinned("c", "node-0", (7,)), pinned("d", "elsewhere", (0,))):
        assert isinstance(await backend.reserve(refused), PlacementRefused)


@pytest.mark.parametrize(
    ("strategy", "bundles", "nodes"),
    [
        (Strategy.PACK, 2, {"node-0"}),
        (Strategy.PACK, 3, {"node-0", "node-1"}),
        (Strategy.STRICT_PACK, 2, {"node-0"}),
        (Strategy.STRICT_PACK, 3, set()),
        (Strategy.SPREAD, 2, {"node-0", "node-1"}),
        (Strategy.SPREAD, 3, {"node-0", "node-1"}),
        (Strategy.STRICT_SPREAD, 2, {"node-0", "node-1"}),
        (Strategy.STRICT_SPREAD, 3, set()),
    ],
)
async def test_a_strategy_lays_bundles_out(backend: Backend, strategy: Strategy, bundles: int, nodes: set[str]) -> None:
    result = await backend.reserve(_request("p", *[Resources(cpus=1.0)] * bundles, strategy=strategy))
    used = {grant.node_id for grant in result.bundles} if isinstance(result, Placement) else set()
    assert used == nodes


async def test_a_process_is_started_once_for_its_id(backend: Backend) -> None:
    await backend.reserve(_request("p", Resources(cpus=1.0)))
    first = await backend.start(_spec("a"))
    assert await backend.start(_spec("a")) == first
    assert (await backend.list()).processes == (first,)
    assert first.node_id == "node-0"


async def test_a_process_without_a_placement_is_refused(backend: Backend) -> None:
    with pytest.raises(ImportFailedError, match="reserve it first"):
        await backend.start(_spec("a"))
    assert (await backend.list()).processes == ()


@pytest.mark.parametrize(("kill", "code"), [(False, -signal.SIGTERM), (True, -signal.SIGKILL)])
async def test_a_stopped_process_ends_and_says_so_once(backend: Backend, *, kill: bool, code: int) -> None:
    await backend.reserve(_request("p", Resources(cpus=1.0)))
    await backend.start(_spec("a"))
    await backend.start(_spec("b"))
    events = backend.events()
    await backend.stop("a", kill=kill)
    event = await _next(events)
    assert (event.process_id, event.exit_code) == ("a", code)
    await backend.stop("a", kill=True)
    await backend.stop("b", kill=True)
    assert (await _next(events)).process_id == "b"
    assert (await backend.list()).processes == ()


async def test_a_process_that_has_ended_is_not_started_again(backend: Backend) -> None:
    await backend.reserve(_request("p", Resources(cpus=1.0)))
    first = await backend.start(_spec("a"))
    await backend.stop("a", kill=True)
    await _next(backend.events())
    assert await backend.start(_spec("a")) == first
    assert (await backend.list()).processes == ()


async def test_stopping_what_is_not_known_is_harmless(backend: Backend) -> None:
    await backend.stop("never", kill=True)


async def test_closing_ends_the_events(backend: Backend) -> None:
    events = backend.events()
    await backend.close()
    async with asyncio.timeout(60):
        assert [event async for event in events] == []
    await backend.open()


# What concerns processes of this machine.


async def test_a_killed_process_is_noticed_with_its_signal(local: LocalBackend) -> None:
    process = await local.start(_spec("a"))
    os.kill(process.pid, signal.SIGKILL)
    assert await _next(local.events()) == ProcessExited(process_id="a", exit_code=-signal.SIGKILL)


async def test_output_goes_to_the_log_and_its_end_into_the_event(local: LocalBackend) -> None:
    command = _python("import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)")
    await local.start(_spec("a", command, log_name="replica"))
    assert await _next(local.events()) == ProcessExited(process_id="a", exit_code=3, log_tail="out\nerr\n")
    assert local.log_path("replica").read_text() == "out\nerr\n"


async def test_a_process_has_its_environment_folder_and_session(local: LocalBackend, tmp_path: Path) -> None:
    program = (
        "import os, sys; print(os.environ['X'], os.environ['SERVE_CORE_PROCESS_ID'], os.getcwd(), os.getsid(0) == os.getpid(),"
        " sys.path.index(os.getcwd()), os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    await local.reserve(PlacementRequest(placement_id="g", bundles=(BundleRequest(resources=Resources(gpus=2.0)),)))
    spec = ProcessSpec(
        process_id="a",
        command=_python(program),
        placement_id="g",
        env={"X": "1"},
        working_dir=str(tmp_path),
    )
    await local.start(spec)
    assert (await _next(local.events())).log_tail == f"1 a {tmp_path} True 0 0,1\n"


async def test_who_asked_for_no_gpu_sees_none(local: LocalBackend) -> None:
    program = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    await local.start(_spec("a", _python(program)))
    assert (await _next(local.events())).log_tail == "''\n"


async def test_a_process_is_told_what_its_children_may_use(local: LocalBackend) -> None:
    program = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['SERVE_CORE_BUNDLES'])"
    one, none = Resources(gpus=1.0), Resources(custom={"disk": 0.5})
    bundles = tuple(BundleRequest(resources=resources) for resources in (none, one, one, none))
    await local.reserve(PlacementRequest(placement_id="g", bundles=bundles))
    command = _python(program)
    await local.start(ProcessSpec(process_id="a", command=command, placement_id="g", bundle=1, child_bundles=2))
    own, _, told = (await _next(local.events())).log_tail.partition(" ")
    assert own == "0"
    assert parse_bundles(told) == (ChildBundle(resources=one, gpu_ids=("1",)), ChildBundle(resources=none))
    with pytest.raises(ImportFailedError, match="is not reserved"):
        await local.start(ProcessSpec(process_id="b", command=command, placement_id="g", bundle=2, child_bundles=2))


async def test_a_missing_interpreter_is_an_error_that_names_it(local: LocalBackend) -> None:
    with pytest.raises(ImportFailedError, match="/no/such/python"):
        await local.start(_spec("a", ("/no/such/python",)))
    with pytest.raises(ImportFailedError, match="/no/such/folder"):
        await local.start(_spec("b", working_dir="/no/such/folder"))
    assert (await local.list()).processes == ()


async def test_children_end_with_their_process(local: LocalBackend, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The child holds the writing end of the fifo open for as long as it lives.
    program = (
        "import subprocess, sys, signal; f = open(sys.argv[1], 'w');"
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], pass_fds=[f.fileno()]);"
        "f.write('x'); f.flush(); signal.pause()"
    )
    await local.start(_spec("a", _python(program, str(fifo))))
    with await asyncio.to_thread(fifo.open) as reader:
        assert await asyncio.to_thread(reader.read, 1) == "x"
        await local.stop("a", kill=True)
        await _next(local.events())
        assert await asyncio.to_thread(reader.read) == ""


async def test_the_next_backend_adopts_what_runs(tmp_path: Path, forks: str | None) -> None:
    first = _local(tmp_path, forks)
    await first.open()
    placement = await first.reserve(_request("p", Resources(cpus=1.0, gpus=1.0)))
    process = await first.start(_spec("a"))
    await first.close()
    second = _local(tmp_path, forks)
    await second.open()
    try:
        listing = await second.list()
        assert (listing.processes, listing.placements) == ((process,), (placement,))
        assert sum(node.used.cpus for node in second.nodes()) == 1.0
        assert await second.start(_spec("a")) == process
    finally:
        await second.stop("a", kill=True)
    event = await _next(second.events())
    assert (event.process_id, event.exit_code) == ("a", None)
    _reap(process.pid)
    await second.close()


async def test_what_ended_meanwhile_is_told_to_the_next_backend(tmp_path: Path, forks: str | None) -> None:
    first = _local(tmp_path, forks)
    await first.open()
    await first.reserve(_request("p", Resources(cpus=1.0)))
    process = await first.start(_spec("a"))
    await first.close()
    os.kill(process.pid, signal.SIGKILL)
    _reap(process.pid)
    second = _local(tmp_path, forks)
    await second.open()
    assert (await _next(second.events())).process_id == "a"
    assert (await second.list()).processes == ()
    await second.close()
    third = _local(tmp_path, forks)
    await third.open()
    await third.close()
    assert [event async for event in third.events()] == []


async def test_a_child_whose_start_was_not_noted_in_full_is_found_by_its_mark(
    tmp_path: Path, forks: str | None
) -> None:
    first = _local(tmp_path, forks)
    await first.open()
    await first.reserve(_request("p", Resources()))
    process = await first.start(_spec(f"a{os.getpid()}"))
    await first.close()
    note = tmp_path / "state" / "processes" / f"{process.process_id}.json"
    note.write_text(note.read_text().partition(',"identity"')[0] + "}")
    second = _local(tmp_path, forks)
    await second.open()
    assert (await second.list()).processes == (process,)
    await second.stop(process.process_id, kill=True)
    await _next(second.events())
    _reap(process.pid)
    await second.close()


async def test_another_process_with_the_same_pid_is_never_taken_for_ours() -> None:
    me = identify(os.getpid())
    assert me is not None
    pidfd = open_pidfd(me)
    assert pidfd is not None
    os.close(pidfd)
    assert open_pidfd(ProcessIdentity(pid=me.pid, start_ticks=me.start_ticks - 1, boot_id=me.boot_id)) is None
    assert open_pidfd(ProcessIdentity(pid=me.pid, start_ticks=me.start_ticks, boot_id="another")) is None
    assert find_marked(f"{MARKER}=never-{os.getpid()}".encode()) is None


async def test_a_state_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreUnusableError, match="--state-dir"):
        await _local(tmp_path).open()


async def test_a_note_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    await _local(tmp_path).open()
    broken = tmp_path / "state" / "processes" / "a.json"
    broken.write_text("{")
    with pytest.raises(StoreUnusableError, match=str(broken)):
        await _local(tmp_path).open()


def test_a_machine_offers_what_it_has(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    offer = detect_offer(environment={}, devices=tmp_path)
    assert offer.total.cpus == os.cpu_count()
    assert offer.total.memory_bytes > 0
    assert (offer.total.gpus, offer.gpu_ids) == (2.0, ("0", "1"))
    assert detect_offer(environment={"CUDA_VISIBLE_DEVICES": "3"}, devices=tmp_path).gpu_ids == ("3",)
    chosen = detect_offer(environment={}, cpus=0.5, gpus=1, memory_bytes=7, devices=tmp_path)
    assert (chosen.total, chosen.gpu_ids) == (Resources(cpus=0.5, gpus=1.0, memory_bytes=7), ("0",))


async def test_what_an_earlier_backend_was_killed_in_the_middle_of_writing_is_cleared_away(tmp_path: Path) -> None:
    first = _local(tmp_path)
    await first.open()
    kept = await first.reserve(_request("p", Resources(cpus=1.0)))
    await first.close()
    folder = tmp_path / "state" / "placements"
    (folder / "q.draft").write_text('{"placement_id":')
    second = _local(tmp_path)
    await second.open()
    assert (await second.list()).placements == (kept,)
    assert [path.name for path in folder.iterdir()] == ["p.json"]
    await second.close()
