"""Errors survive the way through a gRPC status, typed, and never too long for trailers."""

from __future__ import annotations

import copy
import re
import sys
import types
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

import serve_core.errors
from serve_core.errors import (
    CATALOGUE,
    ERROR_TYPES,
    ApplicationError,
    Code,
    ConfigInvalidError,
    DrainingError,
    FieldViolation,
    NoSlotError,
    QueueFullError,
    Reason,
    ReplicaDiedError,
    ServeError,
    SlotExpiredError,
)
from serve_core.wire.errors import (
    DETAILS_KEY,
    PUSHBACK_KEY,
    EncodedError,
    decode_error,
    encode_error,
    from_exception,
    grpc_code,
)


class CustomError(Exception):
    """Has a constructor that nobody but its author can call."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one = one


class Outer:
    """A namespace."""

    class NestedError(LookupError):
        """Found through its outer class."""


class PickyError(Exception):
    """Does not let itself be made."""

    def __new__(cls, *args: Any) -> PickyError:
        if cls is not PickyError:
            raise RuntimeError("not you")
        return super().__new__(cls, *args)


class FinalError(Exception):
    """Refuses subclasses."""

    def __init_subclass__(cls) -> None:
        raise RuntimeError("no heirs")


class ChosenError(ApplicationError):
    """A user's own kind of ApplicationError."""


class MuteError(Exception):
    """Cannot even say what it is."""

    code = "not a code"

    def __str__(self) -> str:
        raise RuntimeError("mute")


class CodeError(Exception):
    """Cannot say its code."""

    @property
    def code(self) -> Code:
        """Raises."""
        raise RuntimeError("no code")


def rpc_error(encoded: EncodedError) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        encoded.code,
        initial_metadata=grpc.aio.Metadata(),
        trailing_metadata=grpc.aio.Metadata(*encoded.trailing_metadata),
        details=encoded.message,
    )


def through(error: ServeError) -> ServeError:
    decoded = decode_error(rpc_error(encode_error(error)))
    assert decoded is not None
    return decoded


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:  # noqa: BLE001
        return caught


def made(cls: type[ServeError]) -> ServeError:
    if cls is ConfigInvalidError:
        return ConfigInvalidError([FieldViolation("a.b", "is odd"), FieldViolation("c", "is even")], what="the file")
    if cls is ApplicationError:
        return ApplicationError("failed", code=Code.DATA_LOSS, details={"a": "b"}, replica_id="r-0")
    return cls("what happened", details={"replicaId": "r-0", "ä": "ö"}, retry_after_s=1.25)


@pytest.mark.parametrize("cls", ERROR_TYPES.values(), ids=lambda cls: cls.__name__)
def test_every_leaf_of_the_tree_survives(cls: type[ServeError]) -> None:
    error = made(cls)
    decoded = through(error)
    assert type(decoded) is cls
    assert decoded.message == str(decoded) == error.message
    assert decoded.details == error.details
    assert decoded.retry_after_s == error.retry_after_s
    assert decoded.code == error.code
    assert encode_error(error).code.name == error.code.name


def test_every_reason_has_a_class_and_a_row_of_the_catalogue() -> None:
    assert set(ERROR_TYPES) == set(CATALOGUE) == set(Reason)


@pytest.mark.parametrize("code", list(Code))
def test_every_code_is_one_of_grpc(code: Code) -> None:
    assert grpc_code(code).name == code.name


def test_violations_survive() -> None:
    error = through(made(ConfigInvalidError))
    assert isinstance(error, ConfigInvalidError)
    assert error.violations == (FieldViolation("a.b", "is odd"), FieldViolation("c", "is even"))


def test_application_error_survives_with_its_origin() -> None:
    error = through(
        ApplicationError(
            "no such book",
            code=Code.NOT_FOUND,
            details={"isbn": "1"},
            remote_type="not.loaded:Missing",
            remote_traceback="Traceback: …\n  line",
            replica_id="r-1",
        )
    )
    assert type(error) is ApplicationError
    assert error.code is Code.NOT_FOUND
    assert (error.remote_type, error.replica_id) == ("not.loaded:Missing", "r-1")
    assert error.remote_traceback == "Traceback: …\n  line"
    assert error.details == {"isbn": "1"}
    assert "Raised by replica r-1:\nTraceback: …" in error.__notes__[0]


def test_retry_hint_is_also_a_pushback() -> None:
    trailers = dict(encode_error(QueueFullError("full", retry_after_s=0.05)).trailing_metadata)
    assert trailers[PUSHBACK_KEY] == "50"
    assert PUSHBACK_KEY not in dict(encode_error(QueueFullError("full")).trailing_metadata)


def test_refusals_are_encoded_once() -> None:
    first, second = NoSlotError("full", details={"a": "b"}), NoSlotError("full", details={"a": "b"})
    assert encode_error(first) is encode_error(second)
    assert encode_error(first) != encode_error(DrainingError("full", details={"a": "b"}))


# The tree


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Class name to (parent, reason), as drawn in the docstring of the errors module."""
    tree: dict[str, tuple[str, str]] = {}
    parents: list[str] = ["ServeError"]
    for line in (serve_core.errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}((?:│ {3}| {4})*)[├└]── (\w+)(.*)$", line)
        if match:
            depth = len(match[1]) // 4
            reason = re.match(r"\s+([A-Z_]{3,})\b", match[3])
            del parents[depth + 1 :]
            tree[match[2]] = (parents[depth], reason[1] if reason else "")
            parents.append(match[2])
    return tree


def real_tree(cls: type[ServeError]) -> dict[str, tuple[str, str]]:
    tree: dict[str, tuple[str, str]] = {}
    for child in cls.__subclasses__():
        if child.__module__ == "serve_core.errors":
            tree[child.__name__] = (cls.__name__, str(getattr(child, "reason", "")))
            tree.update(real_tree(child))
    return tree


def test_drawn_tree_is_the_tree_of_classes() -> None:
    assert drawn_tree() == real_tree(ServeError)
    assert len(drawn_tree()) > len(ERROR_TYPES)


# Types of user code


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("bad"),
        KeyError("k"),
        OSError(2, "gone"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        CustomError(1, two=2),
        Outer.NestedError("nested"),
        ZeroDivisionError(),
        TimeoutError("late"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_exception_of_a_loaded_type_is_of_that_type_too(exc: Exception) -> None:
    error = through(from_exception(raised(exc), replica_id="r-0"))
    assert isinstance(error, ApplicationError)
    assert isinstance(error, type(exc))
    assert str(error) == error.message == (str(exc) or type(exc).__name__)
    assert error.code is Code.UNKNOWN
    assert error.replica_id == "r-0"
    assert "test_errors.py" in error.remote_traceback
    assert type(error).__qualname__ == type(exc).__qualname__
    assert type(through(from_exception(exc, replica_id=""))) is type(error)


@pytest.mark.parametrize(
    "exc",
    [
        PickyError("x"),
        FinalError("x"),
        ExceptionGroup("group", [ValueError("x")]),
        StopAsyncIteration("x"),
        NoSlotError("downstream is full"),
        KeyboardInterrupt("x"),
        rpc_error(encode_error(ReplicaDiedError("x"))),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_types_that_cannot_or_must_not_be_mixed_in_stay_plain(exc: BaseException) -> None:
    error = through(from_exception(exc, replica_id="r-0"))
    assert type(error) is ApplicationError
    assert error.remote_type == f"{type(exc).__module__}:{type(exc).__qualname__}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "builtins",
        "builtins:",
        "builtins:int",
        "builtins:print",
        "builtins:SystemExit",
        "builtins:ValueError.args",
        "builtins:nothing",
        ":ValueError",
        "sys:modules",
        "this_module_would_print_if_imported:X",
    ],
)
def test_names_that_lead_to_no_exception_give_a_plain_error(name: str) -> None:
    assert type(through(ApplicationError("x", remote_type=name))) is ApplicationError


def test_type_is_looked_up_without_importing_or_asking_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lazy_module")
    asked: list[str] = []
    vars(module)["__getattr__"] = asked.append
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    assert type(through(ApplicationError("x", remote_type="lazy_module:LaterError"))) is ApplicationError
    assert asked == []


def test_mixed_error_can_be_copied_and_raised() -> None:
    error = through(from_exception(KeyError("k"), replica_id="r-0"))
    twin = copy.copy(error)
    assert type(twin) is type(error)
    assert vars(twin) == vars(error)
    with pytest.raises(KeyError, match="k"):
        raise twin


def test_subclass_of_application_error_arrives_as_such() -> None:
    error = through(from_exception(ChosenError("x", code=Code.ABORTED), replica_id="r-0"))
    assert type(error) is ChosenError
    assert error.code is Code.ABORTED


# From exceptions


@pytest.mark.parametrize("code", [Code.NOT_FOUND, grpc.StatusCode.NOT_FOUND])
def test_chosen_code_is_kept(code: object) -> None:
    exc = ValueError("x")
    exc.code = code  # type: ignore[attr-defined]
    assert from_exception(exc, replica_id="").code is Code.NOT_FOUND


@pytest.mark.parametrize("exc", [CodeError("x"), MuteError(), SystemExit(3)], ids=lambda exc: type(exc).__name__)
def test_code_that_is_none_of_ours_is_unknown(exc: BaseException) -> None:
    assert from_exception(exc, replica_id="").code is Code.UNKNOWN


def test_ok_is_no_code_of_an_error() -> None:
    exc = ValueError("x")
    exc.code = grpc.StatusCode.OK  # type: ignore[attr-defined]
    assert from_exception(exc, replica_id="").code is Code.UNKNOWN


def test_failed_call_of_another_service_keeps_its_code_and_message() -> None:
    exc = rpc_error(EncodedError(grpc.StatusCode.PERMISSION_DENIED, "not yours", ()))
    error = from_exception(exc, replica_id="")
    assert (error.message, error.code) == ("not yours", Code.PERMISSION_DENIED)


def test_exception_that_cannot_be_read_is_still_told() -> None:
    assert from_exception(raised(MuteError()), replica_id="").message == "MuteError (its text raised RuntimeError)"


def test_error_passed_on_by_another_replica_keeps_its_origin() -> None:
    inner = through(from_exception(raised(CustomError(1, two=2)), replica_id="inner-0"))
    outer: Any = through(from_exception(raised(inner), replica_id="outer-0"))
    assert issubclass(type(outer), CustomError)
    assert outer.replica_id == "inner-0"
    assert outer.remote_type.endswith(":CustomError")
    assert "Raised by replica inner-0" in outer.remote_traceback


def test_frames_of_the_runtime_are_left_out_of_the_traceback() -> None:
    namespace: dict[str, Any] = {"__name__": "replica.invoke"}
    exec("def invoke(method): return method()", namespace)

    def method() -> None:
        raise ValueError("x")

    caught = None
    try:
        namespace["invoke"](method)
    except ValueError as exc:
        caught = exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next)
    assert caught is not None
    text = from_exception(caught, replica_id="").remote_traceback
    assert "in method" in text
    assert "in invoke" not in text


# Foreign and broken statuses


@pytest.mark.parametrize(
    "trailers",
    [
        (),
        ((DETAILS_KEY, b"\xff\xff garbage"),),
        ((DETAILS_KEY, Status(code=14, message="x").SerializeToString()),),
        (("x-other", "1"),),
    ],
)
def test_status_that_is_not_ours_is_none(trailers: tuple[tuple[str, str | bytes], ...]) -> None:
    assert decode_error(rpc_error(EncodedError(grpc.StatusCode.UNAVAILABLE, "x", trailers))) is None


def test_status_of_another_domain_or_of_an_unknown_reason_is_none() -> None:
    encoded = encode_error(SlotExpiredError("x"))
    ours = dict(encoded.trailing_metadata)[DETAILS_KEY]
    assert isinstance(ours, bytes)
    for theirs in (ours.replace(b"serve-core", b"elsewhere!"), ours.replace(b"SLOT_EXPIRED", b"SLOT_UNHEARD")):
        assert decode_error(rpc_error(encoded._replace(trailing_metadata=((DETAILS_KEY, theirs),)))) is None


def test_details_with_a_garbled_part_do_not_break_the_reader() -> None:
    status = Status(code=5, message="x")
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    assert decode_error(rpc_error(EncodedError(grpc.StatusCode.NOT_FOUND, "x", trailers))) is None


# Size


@pytest.mark.parametrize("letter", ["a", "ä", "\n", "%", "🎈", "\ud800"])
def test_errors_of_any_size_fit_into_trailers(letter: str) -> None:
    long = letter * 20_000
    many = {f"{letter}{index}": long for index in range(100)}
    for error in (
        ApplicationError(long, details=many, remote_type=long, remote_traceback=long, replica_id=long),
        ConfigInvalidError([FieldViolation(long, long)] * 10, what=long),
        QueueFullError(long, details=many, retry_after_s=3.0),
    ):
        encoded = encode_error(error)
        details = dict(encoded.trailing_metadata)[DETAILS_KEY]
        assert len(details) < 6 * 1024 * 0.9
        on_the_wire = len(details) * 4 // 3 + sum(
            1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in encoded.message.encode()
        )
        assert on_the_wire < 8 * 1024 - 512
        assert type(decode_error(rpc_error(encoded))) is type(error)


def test_violations_beyond_the_limit_are_counted() -> None:
    error = through(ConfigInvalidError([FieldViolation(f"field{index}", "d" * 90) for index in range(100)]))
    assert isinstance(error, ConfigInvalidError)
    *kept, last = error.violations
    assert kept
    assert last.description == f"and {100 - len(kept)} more"


def test_traceback_keeps_its_end() -> None:
    error = through(ApplicationError("x", remote_traceback="a" * 9999 + "the end"))
    assert isinstance(error, ApplicationError)
    assert error.remote_traceback.startswith("…")
    assert error.remote_traceback.endswith("the end")
