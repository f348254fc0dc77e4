from collections.abc import Sequence

from aiokafka.protocol.api import RequestStruct

class MetadataRequest_v5(RequestStruct): ...

class MetadataRequest:
    def __init__(self, topics: Sequence[str] | None = ...) -> None: ...
