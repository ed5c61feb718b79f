"""How large a message may be."""

from __future__ import annotations

from serve_core.errors import MessageTooLargeError


def check_size(message: bytes, max_message_bytes: int, *, what: str) -> None:
    """Does nothing when the message may pass.

    Raises:
        MessageTooLargeError: It is larger than the router takes.
    """
    if len(message) > max_message_bytes:
        raise too_large(what, max_message_bytes, str(len(message)))


def too_large(what: str, max_message_bytes: int, size: str = "") -> MessageTooLargeError:
    """The error for a message above the limit; ``size`` is empty where the transport did not let it through."""
    shown = f"the {what} of {size} bytes" if size else f"the {what}"
    return MessageTooLargeError(
        f"{shown} is larger than the {max_message_bytes} bytes that this router takes: "
        "send less at once, or raise --max-message-bytes",
        details={"size": size, "maxMessageBytes": str(max_message_bytes)},
    )
