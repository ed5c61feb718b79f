"""The reflection table: what it answers, and how its sources replace each other."""

from __future__ import annotations

from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from serve_core.runtime.descriptors import DescriptorIndex
from serve_core.runtime.reflection import ReflectionTable

NOT_FOUND, INVALID_ARGUMENT = 5, 3


def source(package: str, *, filename: str = "service.proto") -> DescriptorIndex:
    proto = descriptor_pb2.FileDescriptorProto(name=filename, package=package)
    proto.service.add(name="S").method.add(name="Call")
    proto.message_type.add(name="M")
    proto.extension.add(name=f"by_{package}", number=len(package), extendee=".shared.Extended")
    proto.message_type.add(name="Extended")
    return DescriptorIndex([f"{package}.S"], [proto])


def ask(table: ReflectionTable, **request: object) -> reflection_pb2.ServerReflectionResponse:
    return table.answer(reflection_pb2.ServerReflectionRequest(host="h", **request))


def packages(response: reflection_pb2.ServerReflectionResponse) -> list[str]:
    files = response.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(raw).package for raw in files]


def table(**sources: DescriptorIndex) -> ReflectionTable:
    made = ReflectionTable()
    for name, index in sources.items():
        made.put(name, index)
    return made


def test_services_of_all_sources_are_listed_sorted_and_once() -> None:
    response = ask(table(x=source("b"), y=source("a"), z=source("b")), list_services="")

    assert [service.name for service in response.list_services_response.service] == ["a.S", "b.S"]
    assert response.valid_host == "h"
    assert response.original_request.WhichOneof("message_request") == "list_services"


def test_two_sources_with_a_file_of_one_name_are_told_apart_by_symbol() -> None:
    both = table(x=source("a"), y=source("b"))

    assert packages(ask(both, file_containing_symbol="a.S")) == ["a"]
    assert packages(ask(both, file_containing_symbol="b.S.Call")) == ["b"]
    assert packages(ask(both, file_by_filename="service.proto")) == ["a"]


def test_what_is_unknown_is_an_error_response() -> None:
    one = table(x=source("a"))

    for request in (
        {"file_by_filename": "absent.proto"},
        {"file_containing_symbol": "absent.S"},
        {"file_containing_extension": reflection_pb2.ExtensionRequest(containing_type="a.M", extension_number=7)},
        {"all_extension_numbers_of_type": "absent.M"},
    ):
        assert ask(one, **request).error_response.error_code == NOT_FOUND
    assert ask(one).error_response.error_code == INVALID_ARGUMENT


def test_extensions_are_found_and_numbered() -> None:
    made = table(x=source("ab"))
    request = reflection_pb2.ExtensionRequest(containing_type="shared.Extended", extension_number=2)

    assert packages(ask(made, file_containing_extension=request)) == ["ab"]
    numbers = ask(made, all_extension_numbers_of_type="ab.Extended").all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == ("ab.Extended", [])


def test_sources_are_replaced_and_removed_but_for_the_kept_one() -> None:
    made = table(own=source("own"), old=source("old"))

    made.replace({"new": source("new")}, keep="own")
    assert [*made.services] == ["new.S", "own.S"]

    made.remove("new")
    made.remove("never there")
    assert [*made.services] == ["own.S"]

    made.replace({})
    assert [*made.services] == []
