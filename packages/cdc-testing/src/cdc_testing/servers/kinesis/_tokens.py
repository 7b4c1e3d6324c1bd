import base64
import hashlib
import secrets
from typing import TypeVar, final

import msgspec

_Content = TypeVar("_Content", bound=msgspec.Struct)
_SEAL_BYTES = 12


@final
class Tokens:
    """Shard iterators and page tokens: opaque to clients, who cannot make or change one."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def write(self, content: msgspec.Struct) -> str:
        """Seal a struct."""
        body = msgspec.msgpack.encode(content)
        return base64.b64encode(self._seal(body) + body).decode("ascii")

    def read(self, token: str, kind: type[_Content]) -> _Content | None:
        """What a token holds; None where it is none of this server's, or of another kind."""
        try:
            raw = base64.b64decode(token, validate=True)
        except ValueError:
            return None
        seal, body = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if not secrets.compare_digest(seal, self._seal(body)):
            return None
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError:
            return None

    def _seal(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._key, digest_size=_SEAL_BYTES).digest()
