"""The main job, end to end: serve digits with separate processes, ask about 899 real pictures, print what happened.

Run from anywhere: ``python examples/digits/main.py``; ``make run`` does so.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import grpc  # noqa: E402
import grpc.aio  # noqa: E402
import numpy as np  # noqa: E402
from google.protobuf.duration_pb2 import Duration  # noqa: E402

import serve_core  # noqa: E402
from digits.app import Classifier, Preprocess  # noqa: E402
from digits.images import Half, halves  # noqa: E402
from digits.v1 import digits_pb2, digits_pb2_grpc  # noqa: E402
from serve_core.launch import LocalCluster, LocalClusterConfig  # noqa: E402
from serve_core.v1 import router_pb2, router_pb2_grpc  # noqa: E402

CALLERS = 8
TIMEOUT_S = 30.0
ACCURACY_MIN = 0.97


class Outcome:
    """What became of the requests."""

    def __init__(self) -> None:
        self.right = 0
        self.latencies_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self.replicas: Counter[str] = Counter()

    def latency_ms(self, quantile: float) -> float:
        """The latency that this share of the requests stayed within."""
        return float(np.quantile(self.latencies_s or [0.0], quantile)) * 1000


async def ask_about_each(stub: digits_pb2_grpc.DigitServiceAsyncStub, half: Half) -> Outcome:
    """Sends each picture as one unary call, from several callers at once."""
    outcome = Outcome()
    pictures = iter(zip(half.pixels.tolist(), half.digits.tolist(), strict=True))

    async def caller() -> None:
        for pixels, digit in pictures:
            start = time.perf_counter()
            try:
                answer = await stub.Classify(digits_pb2.ClassifyRequest(pixels=pixels), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                outcome.errors[f"{error.code().name}: {error.details()}"] += 1
                continue
            outcome.latencies_s.append(time.perf_counter() - start)
            outcome.right += answer.digit == digit
            outcome.replicas[answer.replica_id] += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return outcome


async def ask_in_one_stream(stub: digits_pb2_grpc.DigitServiceAsyncStub, half: Half, count: int) -> int:
    """Sends ``count`` pictures over one bidirectional stream; how many were right."""

    async def requests() -> AsyncIterator[digits_pb2.ClassifyStreamRequest]:
        for index, pixels in enumerate(half.pixels[:count].tolist()):
            yield digits_pb2.ClassifyStreamRequest(index=index, pixels=pixels)

    right = 0
    async for answer in stub.ClassifyStream(requests(), timeout=TIMEOUT_S):
        right += answer.digit == half.digits[answer.index]
    return right


async def reserve_look_dispatch(channel: grpc.aio.Channel, half: Half) -> None:
    """Reserves a slot, looks at the replica that promised it, and dispatches straight to that replica."""
    router = router_pb2_grpc.RouterServiceStub(channel)
    reserved = await router.ReserveSlot(
        router_pb2.RouterServiceReserveSlotRequest(application="digits", ttl=Duration(seconds=5)), timeout=TIMEOUT_S
    )
    lease, replica = reserved.lease, reserved.replica
    print(f"  reserved    {lease.slot_token[:8]}..., good for {lease.ttl.ToSeconds()} s")
    print(
        f"  look        replica {replica.replica_id} of {replica.deployment} at {replica.address} on {replica.node_id}"
    )
    async with grpc.aio.insecure_channel(replica.address) as direct:
        answer = await digits_pb2_grpc.DigitServiceStub(direct).Classify(
            digits_pb2.ClassifyRequest(pixels=half.pixels[0].tolist()),
            metadata=(("serve-core-slot", lease.slot_token),),
            timeout=TIMEOUT_S,
        )
    if answer.replica_id != replica.replica_id:
        raise SystemExit("the token was promised by one replica and served by another")
    print(f"  dispatched  it shows a {answer.digit} (true: {half.digits[0]}, p = {answer.probability:.2f})")


def report(outcome: Outcome, asked: int, elapsed_s: float) -> None:
    answered = len(outcome.latencies_s)
    quantiles = ", ".join(f"{name} {outcome.latency_ms(q):.1f} ms" for name, q in (("p50", 0.5), ("p99", 0.99)))
    print(f"  requests    {asked} from {CALLERS} callers in {elapsed_s:.1f} s, {answered / elapsed_s:.0f} a second")
    print(f"  errors      {sum(outcome.errors.values())} {dict(outcome.errors) if outcome.errors else ''}".rstrip())
    print(f"  latency     {quantiles}, worst {outcome.latency_ms(1):.1f} ms")
    print(f"  accuracy    {outcome.right / asked:.1%} of {asked} pictures")
    print(f"  answered by {', '.join(f'{name} ({count})' for name, count in sorted(outcome.replicas.items()))}")


def show_processes(cluster: LocalCluster) -> None:
    for node in cluster.process_tree():
        print(f"  {'  ' * node.depth}{node.pid}  {node.title.strip()}")


async def main() -> int:
    _, half = halves()
    app = Preprocess.options(working_dir=str(HERE)).bind(Classifier.options(working_dir=str(HERE)).bind())
    async with LocalCluster(LocalClusterConfig(cpus=2.0)) as cluster:
        await serve_core.deploy(app, name="digits", controller=cluster.controller_address, timeout_s=120)
        print(f"serving digits: gRPC {cluster.router_address}, HTTP {cluster.http_address}")
        show_processes(cluster)
        async with grpc.aio.insecure_channel(cluster.router_address) as channel:
            stub = digits_pb2_grpc.DigitServiceStub(channel)
            print("asking about the half that the classifier has not seen, through the router over gRPC")
            start = time.perf_counter()
            outcome = await ask_about_each(stub, half)
            report(outcome, len(half.digits), time.perf_counter() - start)
            streamed = await ask_in_one_stream(stub, half, 100)
            print(f"  streamed    {streamed} of 100 right over one bidirectional stream")
            print("one slot by hand")
            await reserve_look_dispatch(channel, half)
        handle = serve_core.get_handle(
            "digits",
            controller=cluster.controller_address,
            target=Preprocess.target,  # type: ignore[type-abstract]
        )
        prediction = await handle.classify(half.pixels[0].tolist())
        print(f"by typed handle: {prediction}")
        await serve_core.close(cluster.controller_address)
    print("drained; nothing is left running")
    accurate = outcome.right >= ACCURACY_MIN * len(half.digits)
    return 0 if accurate and not outcome.errors and len(outcome.replicas) == 2 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
