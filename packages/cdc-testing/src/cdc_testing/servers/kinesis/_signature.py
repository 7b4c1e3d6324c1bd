"""AWS Signature Version 4, as a service checks it (IAM user guide, "Create a signed AWS API request")."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from ._refusal import Refusal

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=(?P<key>[^/,\s]+)/(?P<scope>(?P<date>\d{8})/(?P<region>[^/,]+)/kinesis/aws4_request)"
    r", *SignedHeaders=(?P<headers>[a-z0-9;-]+), *Signature=(?P<signature>[0-9a-f]+)"
)
_REQUIRED: Final = ("host", "x-amz-date")


class Authorization(NamedTuple):
    """What an Authorization header says."""

    access_key: str
    scope: str
    date: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str


def parse_authorization(headers: Mapping[str, str]) -> Authorization:
    """Read the header of a request; raises Refusal where there is none, or another kind."""
    text = headers.get("authorization", "")
    if not text:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
    found = _AUTHORIZATION.fullmatch(text)
    if found is None:
        raise Refusal(
            "IncompleteSignatureException", "Authorization is not AWS Signature Version 4 for kinesis"
        )
    return Authorization(
        found["key"],
        found["scope"],
        found["date"],
        found["region"],
        tuple(found["headers"].split(";")),
        found["signature"],
    )


def check_signature(
    authorization: Authorization,
    secret: str,
    *,
    region: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
) -> None:
    """Sign the request again; raises Refusal where the signature is another, or leaves out what it must cover."""
    unsigned = [name for name in _REQUIRED if name not in authorization.signed_headers]
    date = headers.get("x-amz-date", "")
    if unsigned or not date.startswith(authorization.date):
        raise Refusal(
            "IncompleteSignatureException",
            f"the signature must cover {', '.join(_REQUIRED)}, and its date be x-amz-date's",
        )
    if authorization.region != region:
        raise Refusal(
            "InvalidSignatureException", f"Credential should be scoped to a valid region, such as {region}."
        )
    canonical = "\n".join(
        (
            "POST",
            path,
            "",
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in authorization.signed_headers),
            "",
            ";".join(authorization.signed_headers),
            hashlib.sha256(body).hexdigest(),
        )
    )
    to_sign = "\n".join(
        ("AWS4-HMAC-SHA256", date, authorization.scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = f"AWS4{secret}".encode()
    for part in (*authorization.scope.split("/"), to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(key.hex(), authorization.signature):
        raise Refusal(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )
