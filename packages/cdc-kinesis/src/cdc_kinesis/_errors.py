"""What AWS answered, as our errors: split by who has to act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
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


class AwsError(SourceError):
    """A service refused a request, or is not well; `code` is its own word, `response` what came with it."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        where: Mapping[str, object] | None = None,
        remedy: str = "",
        response: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, where=where, remedy=remedy, retryable=code in RETRYABLE_CODES)
        self.code = code
        self.response: Mapping[str, Any] = response or {}


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
    # an SSLError is a ConnectionError to botocore, and may come as late as with the answer
    if isinstance(error, (HTTPClientError, SSLError)):
        return AnswerLost(text, where=where, remedy=remedy)
    if isinstance(error, NotConnected):
        return SourceError(text, where=where, remedy=remedy, retryable=True)
    return SourceError(text, where=where)
