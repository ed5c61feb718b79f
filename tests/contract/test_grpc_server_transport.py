"""TLS, sizes, compression and keepalive on the wire, whichever engine serves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import LIMIT_BYTES, OPTIONS, Context, everything, refusal, serving

ENGINES = pytest.mark.parametrize("which", list(Engine))


class Identity:
    """A key, and a certificate that it signed itself."""

    def __init__(self, directory: Path, name: str) -> None:
        key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
        made = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name}"
        named = f"-addext subjectAltName=DNS:{name} -keyout {key.name} -out {certificate.name}"
        subprocess.run(["openssl", *made.split(), *named.split()], check=True, capture_output=True, cwd=directory)
        self.key = key.read_bytes()
        self.certificate = certificate.read_bytes()


class Wire:
    """Carries bytes between callers and a server, counts them, and can fall silent."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.open = asyncio.Event()
        self.open.set()
        self._port = 0
        self._pumps: set[asyncio.Task[None]] = set()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await self.open.wait()
                if back:
                    self.received += len(data)
                else:
                    self.sent += len(data)
                writer.write(data)
        writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._pumps |= {
            asyncio.ensure_future(self._pump(reader, back, back=False)),
            asyncio.ensure_future(self._pump(there, writer, back=True)),
        }

    @contextlib.asynccontextmanager
    async def to(self, port: int) -> AsyncIterator[str]:
        """The address to call instead."""
        self._port = port
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps)


@contextlib.asynccontextmanager
async def through(wire: Wire, port: int, **options: Any) -> AsyncIterator[Any]:
    async with wire.to(port) as address, grpc.aio.insecure_channel(address, **options) as channel:
        yield channel


@ENGINES
async def test_tls_hides_what_travels_and_proves_who_serves(which: Engine, tmp_path: Path) -> None:
    identity = Identity(tmp_path, "server.test")
    seen: dict[str, Any] = {}
    addresses: list[int] = []

    async def one(request: bytes, context: Context) -> bytes:
        seen.update(context.auth_context())
        assert context.peer_identity_key() is None
        return request

    def listen(server: Any) -> int:
        credentials = grpc.ssl_server_credentials([(identity.key, identity.certificate)])
        return int(server.add_secure_port("127.0.0.1:0", credentials))

    def connect(port: int) -> Any:
        addresses.append(port)
        trusted = grpc.ssl_channel_credentials(identity.certificate)
        options = [("grpc.ssl_target_name_override", "server.test")]
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=options)

    async with serving(which, listen=listen, connect=connect) as rig:
        rig.method("one", one)
        assert await rig.one(request=b"secret") == b"secret"
        assert seen["transport_security_type"] == [b"ssl"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{addresses[0]}") as plain:
            method: Any = plain.unary_unary("/test.v1.Any/one")
            error = await refusal(method(b"x", timeout=30.0))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert await rig.one(request=b"still there") == b"still there"


@ENGINES
async def test_a_callers_certificate_is_its_identity(which: Engine, tmp_path: Path) -> None:
    identity, caller = Identity(tmp_path, "server.test"), Identity(tmp_path, "caller.test")
    stranger = Identity(tmp_path, "stranger.test")
    seen: list[Any] = []
    ports: list[int] = []

    async def one(request: bytes, context: Context) -> bytes:
        seen.extend((context.peer_identity_key(), list(context.peer_identities() or ())))
        seen.append(list(context.auth_context()["x509_common_name"]))
        return request

    def listen(server: Any) -> int:
        credentials = grpc.ssl_server_credentials(
            [(identity.key, identity.certificate)], caller.certificate, require_client_auth=True
        )
        return int(server.add_secure_port("127.0.0.1:0", credentials))

    def connect_as(who: Identity, port: int) -> Any:
        ports.append(port)
        trusted = grpc.ssl_channel_credentials(identity.certificate, who.key, who.certificate)
        options = [("grpc.ssl_target_name_override", "server.test")]
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=options)

    async with serving(which, listen=listen, connect=lambda port: connect_as(caller, port)) as rig:
        rig.method("one", one)
        await rig.one()
        assert seen == ["x509_subject_alternative_name", [b"caller.test"], [b"caller.test"]]
        async with connect_as(stranger, ports[0]) as unknown:
            error = await refusal(unknown.unary_unary("/test.v1.Any/one")(b"x", timeout=30.0))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


@ENGINES
@pytest.mark.parametrize("kind", ["one", "many"])
async def test_answers_above_the_servers_limit_are_not_sent(which: Engine, kind: str) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        return request * 2

    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"small"
        yield request * 2

    async with serving(which, options=(*OPTIONS, ("grpc.max_send_message_length", LIMIT_BYTES))) as rig:
        rig.method("one", one)
        rig.method("many", many)
        half = b"x" * (LIMIT_BYTES // 2)
        assert await rig.one(request=half) == half * 2
        large = half + b"x"
        error = await refusal(rig.one(request=large) if kind == "one" else everything(rig.many(request=large)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@ENGINES
@pytest.mark.parametrize("kind", ["one", "join"])
async def test_requests_above_the_limit_end_the_call(which: Engine, kind: str) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        return b""

    async def join(requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([request async for request in requests])

    async with serving(which) as rig:
        rig.method("one", one)
        rig.method("join", join)
        large = b"x" * (LIMIT_BYTES + 1)
        call = rig.one(request=large) if kind == "one" else rig.channel.stream_unary("/test.v1.Any/join")(iter([large]))
        assert (await refusal(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@ENGINES
async def test_compression_makes_less_travel_each_way(which: Engine) -> None:
    payload = b"a" * 50_000
    compress = True

    async def one(request: bytes, context: Context) -> bytes:
        assert request == payload
        if compress:
            context.set_compression(grpc.Compression.Gzip)
            await context.send_initial_metadata(())
        return request

    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata(())
        context.disable_next_message_compression()
        for _ in range(2):
            yield payload

    wire = Wire()
    async with serving(which, connect=lambda port: through(wire, port)) as rig:
        rig.method("one", one)
        rig.method("many", many)
        assert await rig.one(request=payload, compression=grpc.Compression.Gzip) == payload
        assert wire.sent < 2000
        assert wire.received < 2000
        assert await everything(rig.many()) == [payload] * 2
        assert len(payload) < wire.received < 1.5 * len(payload)
        compress, before = False, wire.received
        assert await rig.one(request=payload) == payload
        assert wire.received - before > len(payload)


@ENGINES
async def test_a_caller_that_fell_silent_is_found_by_keepalive(which: Engine) -> None:
    wire = Wire()
    options = (*OPTIONS, ("grpc.keepalive_time_ms", 1000), ("grpc.http2.ping_timeout_ms", 200))
    async with serving(which, options=options, connect=lambda port: through(wire, port)) as rig:
        rig.method("one", rig.service.wait)
        calling = asyncio.ensure_future(rig.one())
        await rig.service.entered.wait()
        wire.open.clear()
        await rig.service.cancelled.wait()
        wire.open.set()
        assert (await refusal(calling)).code() is grpc.StatusCode.UNAVAILABLE
