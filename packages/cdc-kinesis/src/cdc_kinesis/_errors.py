"""What AWS answered, as our errors: split by who has to act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NotConnected

from cdc_core import AccessError, CdcError, ConfigError, SourceError, redact

# Error codes that a later try may not meet again (the services' API references, "Common Errors").
RETRYABLE_CODES: Final = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "KMSThrottlingException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TransactionConflictException",
    }
)
ACCESS_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "KMSAccessDeniedException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)

_TOO_MANY_REQUESTS: Final = 429


class AwsError(SourceError):
    """A service refused a request, or is not well; `code` is its own word, `response` what came with it.

    `status` is HTTP's, 0 where there was none. From 500 on nothing says how far the service got, whatever the code:
    what stands before it (a load balancer, a proxy) answers without a body, and the status is all that there is.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        where: Mapping[str, object] | None = None,
        remedy: str = "",
        response: Mapping[str, Any] | None = None,
    ) -> None:
        self.response: Mapping[str, Any] = response or {}
        self.status: int = self.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        may_pass = code in RETRYABLE_CODES or self.status >= 500 or self.status == _TOO_MANY_REQUESTS
        super().__init__(message, where=where, remedy=remedy, retryable=may_pass)
        self.code = code


class AwsAccessError(AccessError):
    """No credentials, expired ones, or a missing permission; `code` is the service's own word."""

    def __init__(
        self, message: str, *, code: str, where: Mapping[str, object] | None = None, remedy: str = ""
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.code = code


class AnswerLost(SourceError):
    """The network failed or a deadline passed: the request was carried out, or not, or will be."""

    retryable = True


def refused(
    code: str,
    message: str,
    *,
    where: Mapping[str, object] | None = None,
    response: Mapping[str, Any] | None = None,
) -> AwsError | AwsAccessError:
    """Return the error for a service's answer of an error code."""
    text = f"{code}: {redact(message)}"
    if code in ACCESS_CODES:
        return AwsAccessError(
            text,
            code=code,
            where=where,
            remedy="check the credentials, their expiry, and the permissions of the role",
        )
    return AwsError(text, code=code, where=where, response=response)


def untrusted_certificate(reason: str, *, where: Mapping[str, object]) -> ConfigError:
    """Return the error for a server whose certificate no authority of ours vouches for."""
    return ConfigError(
        f"the server's certificate is not trusted: {reason}",
        where=where,
        remedy="name the certificates to trust in AWS_CA_BUNDLE",
    )


def translated(error: BotoCoreError | ClientError, *, where: Mapping[str, object]) -> CdcError:
    """Return what botocore raised as one of our errors."""
    if isinstance(error, ClientError):
        response: Mapping[str, Any] = error.response
        details: Mapping[str, Any] = response.get("Error", {})
        return refused(
            details.get("Code", "Unknown"), details.get("Message", ""), where=where, response=response
        )
    text = f"{type(error).__name__}: {redact(str(error))}"
    if isinstance(error, NoRegionError):
        return ConfigError(text, where=where, remedy="set region, or AWS_REGION")
    if isinstance(error, InvalidRegionError):
        return ConfigError(text, where=where, remedy="set region to the name of one, as eu-west-1")
    if isinstance(error, ProfileNotFound):
        return ConfigError(
            text, where=where, remedy="set AWS_PROFILE to a profile that is there, or unset it"
        )
    if isinstance(error, ParamValidationError):
        return ConfigError(text, where=where)
    if isinstance(
        error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError)
    ):
        return AwsAccessError(
            text,
            code=type(error).__name__,
            where=where,
            remedy="give botocore credentials: a profile, environment variables or a role",
        )
    remedy = "check the network and the endpoint"
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return untrusted_certificate(text, where=where)
    # an SSLError is a ConnectionError to botocore, and may come as late as with the answer
    if isinstance(error, (HTTPClientError, SSLError)):
        return AnswerLost(text, where=where, remedy=remedy)
    if isinstance(error, NotConnected):
        return SourceError(text, where=where, remedy=remedy, retryable=True)
    return SourceError(text, where=where)
