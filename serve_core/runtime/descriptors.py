"""Sets of serialized proto files: collecting them, and finding what is where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from serve_core.errors import ConfigInvalidError, FieldViolation


class DescriptorIndex:
    """Services, and the files that define them.

    Args:
        services: Full names of the services that are served.
        files: The files, with all that they import.
    """

    def __init__(self, services: Iterable[str], files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self.services = tuple(dict.fromkeys(services))
        self._serialized: dict[str, bytes] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self._symbols: dict[str, str] = {}
        self._messages: set[str] = set()
        self._extensions: dict[str, dict[int, str]] = {}
        for file in files:
            self._add(file)

    @classmethod
    def from_bytes(cls, services: Iterable[str], descriptor_set: bytes) -> DescriptorIndex:
        """Of a serialized ``google.protobuf.FileDescriptorSet``.

        Raises:
            ConfigInvalidError: The bytes are none.
        """
        try:
            files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
        except DecodeError as error:
            violation = FieldViolation("descriptor_set", f"{len(descriptor_set)} bytes are not a FileDescriptorSet")
            raise ConfigInvalidError([violation], what="the set of proto files") from error
        return cls(services, files.file)

    @classmethod
    def of_this_process(
        cls, services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None
    ) -> DescriptorIndex:
        """Of services whose generated code this process has loaded. Of others only the names are known."""
        names = tuple(services)
        return cls(names, collect_files(names, pool))

    def with_name(self, filename: str) -> tuple[bytes, ...]:
        """The file of this name and all that it imports, serialized, itself first; empty if there is none."""
        if filename not in self._serialized:
            return ()
        found: dict[str, None] = {}
        waiting = [filename]
        while waiting:
            name = waiting.pop()
            if name not in found and name in self._serialized:
                found[name] = None
                waiting.extend(reversed(self._imports[name]))
        return tuple(self._serialized[name] for name in found)

    def with_symbol(self, symbol: str) -> tuple[bytes, ...]:
        """The same for the file that defines a message, field, enumeration, service, method or extension."""
        filename = self._symbols.get(symbol.removeprefix("."))
        return () if filename is None else self.with_name(filename)

    def with_extension(self, type_name: str, number: int) -> tuple[bytes, ...]:
        """The same for the file that extends a message by this field number."""
        filename = self._extensions.get(type_name, {}).get(number)
        return () if filename is None else self.with_name(filename)

    def has_message(self, type_name: str) -> bool:
        """Whether there is a message type of this full name."""
        return type_name in self._messages

    def extension_numbers(self, type_name: str) -> tuple[int, ...]:
        """The field numbers by which a message is extended, sorted."""
        return tuple(sorted(self._extensions.get(type_name, ())))

    def _add(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._serialized[file.name] = file.SerializeToString()
        self._imports[file.name] = tuple(file.dependency)
        prefix = f"{file.package}." if file.package else ""
        for service in file.service:
            self._define(file.name, f"{prefix}{service.name}", (method.name for method in service.method))
        for enum in file.enum_type:
            self._add_enum(file.name, prefix, enum)
        for message in file.message_type:
            self._add_message(file.name, prefix, message)
        self._add_extensions(file.name, prefix, file.extension)

    def _add_message(self, filename: str, prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}{message.name}"
        self._messages.add(name)
        members = [*(field.name for field in message.field), *(oneof.name for oneof in message.oneof_decl)]
        self._define(filename, name, members)
        for enum in message.enum_type:
            self._add_enum(filename, f"{name}.", enum)
        for nested in message.nested_type:
            self._add_message(filename, f"{name}.", nested)
        self._add_extensions(filename, f"{name}.", message.extension)

    def _add_enum(self, filename: str, prefix: str, enum: descriptor_pb2.EnumDescriptorProto) -> None:
        self._define(filename, f"{prefix}{enum.name}", ())
        for value in enum.value:  # values live beside their enumeration, not in it
            self._symbols[f"{prefix}{value.name}"] = filename

    def _add_extensions(
        self, filename: str, prefix: str, extensions: Iterable[descriptor_pb2.FieldDescriptorProto]
    ) -> None:
        for extension in extensions:
            self._symbols[f"{prefix}{extension.name}"] = filename
            self._extensions.setdefault(extension.extendee.removeprefix("."), {})[extension.number] = filename

    def _define(self, filename: str, name: str, members: Iterable[str]) -> None:
        self._symbols[name] = filename
        for member in members:
            self._symbols[f"{name}.{member}"] = filename


def collect_files(
    services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None
) -> list[descriptor_pb2.FileDescriptorProto]:
    """The files that define these services, with all that they import, each after its imports.

    Services that the pool does not know are passed over.
    """
    known = descriptor_pool.Default() if pool is None else pool
    found: dict[str, FileDescriptor] = {}
    for service in services:
        try:
            descriptor = known.FindServiceByName(service)
        except KeyError:
            continue
        for file in _with_imports(descriptor.file, found):
            found[file.name] = file
    protos = []
    for file in found.values():
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        protos.append(proto)
    return protos


def serialize_files(services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None) -> bytes:
    """The same as a serialized ``google.protobuf.FileDescriptorSet``; empty when none is known."""
    return descriptor_pb2.FileDescriptorSet(file=collect_files(services, pool)).SerializeToString()


def renamed(file: descriptor_pb2.FileDescriptorProto, *, name: str, package: str) -> descriptor_pb2.FileDescriptorProto:
    """A copy of a file under another name and package, for a protocol that is served as two versions.

    Only for a file without nested types and extensions.
    """
    copy = descriptor_pb2.FileDescriptorProto()
    copy.CopyFrom(file)
    copy.name, copy.package = name, package
    copy.ClearField("options")
    old, new = f".{file.package}.", f".{package}."

    def moved(type_name: str) -> str:
        return new + type_name.removeprefix(old) if type_name.startswith(old) else type_name

    for message in copy.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = moved(field.type_name)
    for service in copy.service:
        for method in service.method:
            method.input_type, method.output_type = moved(method.input_type), moved(method.output_type)
    return copy


def _with_imports(file: FileDescriptor, found: Iterable[str]) -> Iterator[FileDescriptor]:
    if file.name in found:
        return
    for dependency in file.dependencies:
        yield from _with_imports(dependency, found)
    yield file
