from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import msgspec

from ._cbor import decode_cbor, encode_cbor
from ._operations import Operation
from ._refusal import Refusal

JSON: Final = "application/x-amz-json-1.1"
CBOR: Final = "application/x-amz-cbor-1.1"


class Codec(NamedTuple):
    """How requests and answers are written."""

    content_type: str
    decode: Callable[[Operation[Any], bytes], Any]
    encode: Callable[[object], bytes]


def _decode_json(operation: Operation[Any], body: bytes) -> Any:
    return operation.decode_json(body or b"{}")


def _decode_cbor(operation: Operation[Any], body: bytes) -> Any:
    try:
        content: object = decode_cbor(body) if body else cast("object", {})
    except ValueError as error:
        raise Refusal("SerializationException", str(error)) from error
    return operation.convert(content)


def _encode_cbor(answer: object) -> bytes:
    return encode_cbor(msgspec.to_builtins(answer, builtin_types=(bytes,)))


CODECS: Final = {
    JSON: Codec(JSON, _decode_json, msgspec.json.encode),
    # The Java SDK's default, switched off with -Daws.cborEnabled=false.
    CBOR: Codec(CBOR, _decode_cbor, _encode_cbor),
}
