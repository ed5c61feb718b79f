"""``serve-core call``: a method of a deployment, with JSON in and out."""

from __future__ import annotations

import base64
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING

import click
import grpc
import grpc.aio

from serve_core.cli.parameters import DeploymentParam, controller_option, timeout_option
from serve_core.cli.report import run_async
from serve_core.client import ControllerClient
from serve_core.errors import DeploymentUnavailableError
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.channel import open_channel
from serve_core.v1 import router_pb2 as pb
from serve_core.v1 import types_pb2 as types
from serve_core.v1.router_pb2_grpc import RouterServiceStub
from serve_core.wire.errors import decode_error

if TYPE_CHECKING:
    from serve_core.v1.router_pb2_grpc import RouterServiceAsyncStub

_NO_ROUTER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)
_STREAMING_IN = (types.METHOD_KIND_CLIENT_STREAM, types.METHOD_KIND_BIDI_STREAM)


@click.command()
@click.argument("deployment", metavar="APP[.DEPLOYMENT]", type=DeploymentParam(deployment_needed=False))
@click.argument("method")
@click.argument("arguments", metavar="[JSON]", required=False, default="")
@click.option(
    "--router",
    envvar="SERVE_CORE_ROUTER",
    show_envvar=True,
    metavar="HOST:PORT",
    help="The router; by default one that the controller knows.",
)
@controller_option
@timeout_option(60.0, "Seconds for the whole call.")
def call(
    deployment: DeploymentKey, method: str, arguments: str, router: str | None, controller: str, timeout_s: float
) -> None:
    """Call METHOD with JSON: an object gives keyword arguments, an array positional ones, another value the only one.

    '-' reads the JSON from stdin. A method that streams prints a line for each item; one that takes a stream gets the
    lines of stdin, one item each. METHOD __call__ is the deployment itself.
    """
    stdin = sys.stdin
    run_async(_call(deployment, method, arguments, stdin, router, controller, timeout_s))


async def _call(
    key: DeploymentKey,
    method: str,
    arguments: str,
    stdin: Iterable[str],
    router: str | None,
    controller: str,
    timeout_s: float,
) -> None:
    address = router or await _some_router(controller)
    channel = open_channel(address)
    try:
        stub = RouterServiceStub(channel)
        kind = await _kind(stub, key, method, timeout_s)
        lines = iter(stdin) if kind in _STREAMING_IN else iter(())
        text = "".join(stdin) if arguments == "-" and kind not in _STREAMING_IN else arguments
        opening = pb.RouterServiceDispatchRequest(
            application=key.application,
            deployment=key.deployment,
            method="" if method == "__call__" else method,
            arguments=_payload("" if text == "-" else text),
            request_id=uuid.uuid4().hex,
        )
        if kind == types.METHOD_KIND_UNARY:
            response = await stub.Dispatch(opening, timeout=timeout_s)
            click.echo(shown(response.result))
            return
        async for item in stub.DispatchStream(_requests(opening, lines), timeout=timeout_s):
            click.echo(shown(item.item))
    except grpc.aio.AioRpcError as error:
        ours = decode_error(error)
        if ours is not None:
            raise ours from None
        if error.code() in _NO_ROUTER:
            raise _unreachable(address) from None
        raise
    finally:
        await channel.close()


def _unreachable(address: str) -> DeploymentUnavailableError:
    return DeploymentUnavailableError(
        f"no router answers at {address}: start one with 'serve-core run' or 'serve-core router', or give its address "
        "with --router",
        details={"address": address},
    )


async def _some_router(controller: str) -> str:
    async with ControllerClient(controller) as client:
        found = [router.address for router in (await client.status()).routers if router.address]
    if not found:
        raise DeploymentUnavailableError(
            f"the controller at {controller} knows no router: start one with 'serve-core router', or give --router",
            details={"controller": controller},
        )
    return found[0]


async def _kind(
    stub: RouterServiceAsyncStub, key: DeploymentKey, method: str, timeout_s: float
) -> types.MethodKind.ValueType:
    """The method's shape; unary if the router does not know it, which then says so itself."""
    router = await stub.GetRouter(pb.GetRouterRequest(), timeout=timeout_s)
    for deployment in router.deployments:
        named = deployment.deployment == key.deployment or (not key.deployment and deployment.ingress)
        if deployment.application == key.application and named:
            for one in deployment.methods:
                if one.name == method:
                    return one.kind
    return types.METHOD_KIND_UNARY


async def _requests(
    opening: pb.RouterServiceDispatchRequest, lines: Iterator[str]
) -> AsyncIterator[pb.RouterServiceDispatchStreamRequest]:
    yield pb.RouterServiceDispatchStreamRequest(open=opening)
    for line in lines:
        if line.strip():
            yield pb.RouterServiceDispatchStreamRequest(item=_payload(line))


def _payload(text: str) -> types.Payload:
    if text.strip():
        try:
            json.loads(text)
        except ValueError as error:
            raise click.BadParameter(f"{text.strip()[:60]!r} is no JSON: {error}", param_hint="JSON") from None
    return types.Payload(encoding=types.PAYLOAD_ENCODING_JSON, data=text.strip().encode())


def shown(payload: types.Payload) -> str:
    """A result as one line of JSON."""
    if payload.encoding == types.PAYLOAD_ENCODING_JSON:
        return payload.data.decode() or "null"
    return json.dumps({"@type": payload.type_name, "base64": base64.b64encode(payload.data).decode()})
