"""Whether this grpcio is one that the server core knows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import grpc

from serve_core.runtime.core.binding import cygrpc

SUPPORTED = ((1, 82), (1, 86))
"""The grpcio versions whose core was tried: from the first, and before the second."""

_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "CompletionQueue": ("poll", "shutdown"),
    "Server": (
        "add_http2_port",
        "cancel_all_calls",
        "destroy",
        "register_completion_queue",
        "request_call",
        "shutdown",
        "start",
    ),
    "Call": ("start_server_batch", "cancel", "peer"),
    "RequestCallEvent": ("call", "call_details", "invocation_metadata"),
    "BatchOperationEvent": ("batch_operations", "success"),
    "ReceiveMessageOperation": ("message",),
    "ReceiveCloseOnServerOperation": ("cancelled",),
    "SendInitialMetadataOperation": (),
    "SendMessageOperation": (),
    "SendStatusFromServerOperation": (),
    "CompletionType": ("queue_timeout", "queue_shutdown"),
    "WriteFlag": ("buffer_hint", "no_compress"),
    "GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY": (),
    "auth_context": (),
    "peer_identities": (),
    "peer_identity_key": (),
}


def unsupported(core: Any = cygrpc, version: str | None = None) -> str:
    """Why the server core cannot run on this grpcio; empty if it can.

    Args:
        core: The module that it leans on.
        version: Of grpcio; None means the installed one.
    """
    text = grpc.__version__ if version is None else version
    first, end = SUPPORTED
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
    if not first <= numbers < end:
        return f"grpcio {text} is not from {_text(first)} to before {_text(end)}"
    for name, attributes in _ATTRIBUTES.items():
        found = inspect.getattr_static(core, name, None)
        missing = [one for one in attributes if inspect.getattr_static(found, one, None) is None]
        if found is None or missing:
            what = name if found is None else f"{name}.{missing[0]}"
            return f"grpcio {text} has no {what} in its core"
    return ""


def _text(version: tuple[int, int]) -> str:
    return ".".join(str(number) for number in version)
