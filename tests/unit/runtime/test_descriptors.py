"""Finding files, symbols and extensions in sets of proto files."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

from serve_core.errors import ConfigInvalidError
from serve_core.runtime.descriptors import DescriptorIndex, collect_files, renamed, serialize_files

HEALTH = "grpc.health.v1.Health"


def file(name: str, *imports: str, package: str = "") -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto(name=name, package=package, dependency=imports)


def names(serialized: tuple[bytes, ...]) -> list[str]:
    return [descriptor_pb2.FileDescriptorProto.FromString(raw).name for raw in serialized]


def test_a_file_comes_first_and_then_each_of_its_imports_once() -> None:
    index = DescriptorIndex((), [file("d"), file("b", "d"), file("c", "d"), file("a", "b", "c")])

    assert names(index.with_name("a")) == ["a", "b", "d", "c"]
    assert names(index.with_name("d")) == ["d"]


def test_an_import_that_is_missing_is_left_out() -> None:
    assert names(DescriptorIndex((), [file("a", "nowhere")]).with_name("a")) == ["a"]


def test_a_file_that_is_not_there_is_empty() -> None:
    assert DescriptorIndex((), [file("a")]).with_name("b") == ()


def test_every_kind_of_symbol_is_found() -> None:
    proto = file("all.proto", package="p.v1")
    message = proto.message_type.add(name="M")
    message.field.add(name="f", number=1)
    message.oneof_decl.add(name="o")
    message.nested_type.add(name="N").enum_type.add(name="E").value.add(name="INNER", number=0)
    proto.enum_type.add(name="Outer").value.add(name="OUTER_ONE", number=0)
    proto.service.add(name="S").method.add(name="Call")
    proto.extension.add(name="ext", number=100, extendee=".p.v1.M")
    index = DescriptorIndex(["p.v1.S"], [proto])

    for symbol in (
        *("p.v1.M", ".p.v1.M", "p.v1.M.f", "p.v1.M.o", "p.v1.M.N", "p.v1.M.N.E", "p.v1.M.N.INNER"),
        *("p.v1.Outer", "p.v1.OUTER_ONE", "p.v1.S", "p.v1.S.Call", "p.v1.ext"),
    ):
        assert names(index.with_symbol(symbol)) == ["all.proto"], symbol
    assert index.with_symbol("p.v1.Absent") == ()
    assert names(index.with_extension("p.v1.M", 100)) == ["all.proto"]
    assert index.with_extension("p.v1.M", 101) == ()
    assert index.with_extension("p.v1.Absent", 100) == ()
    assert index.extension_numbers("p.v1.M") == (100,)
    assert index.has_message("p.v1.M.N")
    assert not index.has_message("p.v1.S")


def test_the_files_of_loaded_services_are_collected_and_unknown_services_passed_over() -> None:
    files = collect_files([HEALTH, "no.such.Service"])

    assert [proto.name for proto in files] == [health_pb2.DESCRIPTOR.name]
    assert collect_files(["no.such.Service"]) == []


def test_a_set_survives_being_bytes() -> None:
    index = DescriptorIndex.from_bytes([HEALTH, HEALTH], serialize_files([HEALTH]))

    assert index.services == (HEALTH,)
    assert names(index.with_symbol(f"{HEALTH}.Check")) == [health_pb2.DESCRIPTOR.name]


def test_bytes_that_are_no_set_are_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="FileDescriptorSet"):
        DescriptorIndex.from_bytes([], b"\xff\xff\xff")


def test_a_renamed_file_refers_to_itself_and_leaves_the_original_alone() -> None:
    (original,) = collect_files([HEALTH])
    before = original.SerializeToString()

    copy = renamed(original, name="h2.proto", package="grpc.health.v2")

    methods = {method.name: method.input_type for method in copy.service[0].method}
    assert methods["Check"] == ".grpc.health.v2.HealthCheckRequest"
    assert (copy.name, copy.package) == ("h2.proto", "grpc.health.v2")
    assert original.SerializeToString() == before
