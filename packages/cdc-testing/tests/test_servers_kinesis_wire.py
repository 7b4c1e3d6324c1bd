"""The server over HTTP, byte by byte: what boto3 hides."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc_testing.servers.kinesis import EmbeddedKinesis, start_kinesis
from cdc_testing.servers.kinesis._cbor import decode_cbor, encode_cbor

_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=someone/20270101/us-east-1/kinesis/aws4_request, "
    "SignedHeaders=host, Signature=00"
)
_JSON = "application/x-amz-json-1.1"
_CBOR = "application/x-amz-cbor-1.1"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedKinesis]:
    with start_kinesis(use_existing=False) as server:
        yield server


@pytest.fixture
def connection(server: EmbeddedKinesis) -> Iterator[http.client.HTTPConnection]:
    server.reset()
    assert server.endpoint_url is not None
    connection = http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=20)
    yield connection
    connection.close()


def call(
    connection: http.client.HTTPConnection,
    operation: str,
    body: bytes,
    *,
    content_type: str = _JSON,
    authorization: str | None = _SIGNED,
) -> tuple[int, bytes]:
    headers = {"Content-Type": content_type, "X-Amz-Target": f"Kinesis_20131202.{operation}"}
    if authorization is not None:
        headers["Authorization"] = authorization
    connection.request("POST", "/", body, headers)
    response = connection.getresponse()
    assert response.getheader("Content-Type") == content_type
    assert response.getheader("x-amzn-RequestId")
    return response.status, response.read()


def code_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["__type"]


def test_a_connection_is_kept_for_many_requests(connection: http.client.HTTPConnection) -> None:
    assert call(connection, "ListStreams", b"{}")[0] == 200
    socket = connection.sock
    for _ in range(3):
        assert call(connection, "ListStreams", b"{}")[0] == 200
    assert code_of(call(connection, "DescribeStream", b'{"StreamName": "s"}'))[0] == 400
    assert connection.sock is socket


@pytest.mark.parametrize(
    ("operation", "body", "authorization", "code"),
    [
        ("ListStreams", b"{}", None, "MissingAuthenticationTokenException"),
        ("ListStreams", b"{}", "Basic eHk=", "IncompleteSignatureException"),
        ("NoSuchOperation", b"{}", _SIGNED, "UnknownOperationException"),
        ("ListStreams", b"{", _SIGNED, "SerializationException"),
        ("ListStreams", b'{"Limit": "many"}', _SIGNED, "SerializationException"),
        ("ListStreams", b'{"Limit": 0}', _SIGNED, "ValidationException"),
        ("CreateStream", b"{}", _SIGNED, "ValidationException"),
    ],
)
def test_what_is_no_proper_request_is_refused(
    connection: http.client.HTTPConnection, operation: str, body: bytes, authorization: str | None, code: str
) -> None:
    assert code_of(call(connection, operation, body, authorization=authorization)) == (400, code)


def test_members_that_are_not_known_are_passed_over(connection: http.client.HTTPConnection) -> None:
    assert call(connection, "ListStreams", b'{"Novelty": 1}')[0] == 200


def test_cbor_carries_bytes_and_times_in_milliseconds(connection: http.client.HTTPConnection) -> None:
    def ask(operation: str, members: dict[str, Any]) -> Any:
        status, body = call(connection, operation, encode_cbor(members), content_type=_CBOR)
        content = decode_cbor(body)
        assert status == 200, content
        return content

    ask("CreateStream", {"StreamName": "s", "ShardCount": 1})
    put = ask("PutRecord", {"StreamName": "s", "Data": b"\x00\xff", "PartitionKey": "k"})
    place = {"StreamName": "s", "ShardId": put["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
    iterator = ask("GetShardIterator", place)["ShardIterator"]
    status, body = call(
        connection, "GetRecords", encode_cbor({"ShardIterator": iterator}), content_type=_CBOR
    )
    assert status == 200
    [record] = decode_cbor(body)["Records"]
    assert record["Data"] == b"\x00\xff"
    # tag 1, an integer of eight bytes: milliseconds
    assert b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b" in body
    at = {**place, "ShardIteratorType": "AT_TIMESTAMP"}
    timestamp = round(record["ApproximateArrivalTimestamp"] * 1000)
    raw = encode_cbor(at)
    member = b"\x69Timestamp\xc1\x1b" + timestamp.to_bytes(8, "big")
    grown = bytes([raw[0] + 1]) + raw[1:] + member
    status, body = call(connection, "GetShardIterator", grown, content_type=_CBOR)
    assert status == 200, decode_cbor(body)
    got = ask("GetRecords", {"ShardIterator": decode_cbor(body)["ShardIterator"]})
    assert [each["PartitionKey"] for each in got["Records"]] == ["k"]
    status, body = call(connection, "ListStreams", b"\xff", content_type=_CBOR)
    assert (status, decode_cbor(body)["__type"]) == (400, "SerializationException")


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_VALUES)
def test_cbor_comes_back_as_it_was_written(value: Any) -> None:
    assert decode_cbor(encode_cbor(value)) == value


@given(st.binary(max_size=40))
@example(b"\xa1\x80\x00")  # a list for a key
@example(b"\x9f")  # a list without an end
@example(b"\x9b" + b"\xff" * 8)  # a list longer than memory
@example(b"\x81" * 40)
def test_broken_cbor_is_a_value_error_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_cbor(data)


def test_cbor_of_indefinite_length_is_read() -> None:
    # {_ "a": [_ 1, 2], "b": (_ h'01', h'02'), "c": (_ "x", "y")}
    data = bytes.fromhex("bf6161 9f0102ff 6162 5f41014102ff 6163 7f61786179ff ff")
    assert decode_cbor(data) == {"a": [1, 2], "b": b"\x01\x02", "c": "xy"}
