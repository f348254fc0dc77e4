from typing import Any, ClassVar, Generic, TypeVar

from aiokafka.protocol.types import Schema

_T = TypeVar("_T")

class Response:
    API_KEY: ClassVar[int]
    API_VERSION: ClassVar[int]
    SCHEMA: ClassVar[Schema]
    def to_object(self) -> dict[str, Any]: ...

class RequestStruct:
    FLEXIBLE_VERSION: ClassVar[bool]
    API_KEY: ClassVar[int]
    API_VERSION: ClassVar[int]
    RESPONSE_TYPE: ClassVar[type[Response]]
    SCHEMA: ClassVar[Schema]
    def __init__(self, *values: Any) -> None: ...

class Request(Generic[_T]):
    API_KEY: ClassVar[int]
    def build(self, request_struct_class: Any) -> Any: ...
