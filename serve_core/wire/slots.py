"""Promises of slots, and how they ended, to and from ``serve_core.v1``."""

from __future__ import annotations

from typing import cast

from google.protobuf.duration_pb2 import Duration

from serve_core.model.ids import SlotToken
from serve_core.model.slots import AnyLease, Lease, Rejection, SlotCounters
from serve_core.v1 import replica_pb2, router_pb2, types_pb2
from serve_core.wire.fields import (
    decode_duration,
    decode_time,
    duration_is_sound,
    encode_duration,
    fill_duration,
    fill_time,
    invalid,
)


def encode_lease(lease: AnyLease, *, expire_time: float | None = None) -> types_pb2.SlotLease:
    """The message of a lease.

    Args:
        lease: The promise.
        expire_time: When it ends, in seconds since the Unix epoch. Who made the lease counts by a monotonic clock,
            and so has to give it; a lease that came from ``decode_lease`` says it itself.
    """
    message = types_pb2.SlotLease()
    fill_lease(message, lease, expire_time=lease.expires_at if expire_time is None else expire_time)
    return message


def fill_lease(message: types_pb2.SlotLease, lease: AnyLease, *, expire_time: float) -> None:
    """Makes ``message``, a field of another one, that of a lease; see ``fill_load`` and ``encode_lease``."""
    message.slot_token = str(lease.token)
    message.slots = lease.slots
    fill_time(message.expire_time, expire_time)
    fill_duration(message.ttl, lease.ttl_s)


def spell_reserved(lease: types_pb2.SlotLease, replica: bytes) -> bytes:
    """The router's answer to ReserveSlot, spelled: at a third of what it costs to make the message.

    Args:
        lease: The promise, as its replica has told it.
        replica: The same answer, spelled, with nothing in it but the replica. What is spelled one after the other is one message.
    """
    raw = lease.SerializeToString()
    size = len(raw)
    head = b"%c%c" % (_LEASE_TAG, size) if size < _VARINT_BYTE else _long_head(size)
    return head + raw + replica


def _long_head(size: int) -> bytes:
    head = bytearray((_LEASE_TAG,))
    while size >= _VARINT_BYTE:
        head.append(size % _VARINT_BYTE + _VARINT_BYTE)
        size //= _VARINT_BYTE
    head.append(size)
    return bytes(head)


_LENGTH_DELIMITED = 2
_VARINT_BYTE = 0x80
_LEASE_TAG = router_pb2.RouterServiceReserveSlotResponse.LEASE_FIELD_NUMBER << 3 | _LENGTH_DELIMITED


def decode_lease(message: types_pb2.SlotLease) -> Lease:
    """The lease of a message; its ``expires_at`` is in seconds since the Unix epoch.

    Raises:
        ConfigInvalidError: The token has not the form of one.
    """
    token = SlotToken.parse(message.slot_token)
    if token is None:
        raise invalid("lease.slot_token", "is no slot token")
    return Lease(token, message.slots, decode_duration(message.ttl), decode_time(message.expire_time))


def encode_ttl(ttl_s: float | None) -> Duration | None:
    """The ``ttl`` field of a request: unset for None."""
    return None if ttl_s is None else encode_duration(ttl_s)


_WithTtl = (
    replica_pb2.ReserveSlotRequest
    | replica_pb2.RenewSlotRequest
    | router_pb2.RouterServiceReserveSlotRequest
    | router_pb2.ReserveGangRequest
    | router_pb2.RouterServiceRenewSlotRequest
)


def decode_ttl(request: _WithTtl) -> float | None:
    """The time to live that a request asks for, in seconds, or None if it asks for none.

    Raises:
        ConfigInvalidError: It is negative, or no sound Duration.
    """
    if not request.HasField("ttl"):
        return None
    ttl_s = decode_duration(request.ttl)
    if ttl_s < 0 or not duration_is_sound(request.ttl):
        raise invalid("ttl", f"{ttl_s} s is no time to live; leave it unset for the deployment's default")
    return ttl_s


def encode_rejection(rejection: Rejection) -> replica_pb2.RejectionReason.ValueType:
    """The number of a rejection."""
    return cast("replica_pb2.RejectionReason.ValueType", int(rejection))


def decode_rejection(number: int) -> Rejection:
    """The rejection with this number; one that is not known counts as FULL, which is always safe to act on."""
    try:
        return Rejection(number)
    except ValueError:
        return Rejection.FULL


def encode_slot_counters(counters: SlotCounters) -> types_pb2.SlotCounters:
    """The message of counters."""
    return types_pb2.SlotCounters(**counters._asdict())


def decode_slot_counters(message: types_pb2.SlotCounters) -> SlotCounters:
    """The counters of a message."""
    return SlotCounters(*(getattr(message, name) for name in SlotCounters._fields))
