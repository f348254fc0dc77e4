from typing import Any

class AIOKafkaConnection:
    _writer: Any
    async def connect(self) -> Any: ...
