"""One signed request of the JSON protocol: botocore's credentials and signer, urllib3's connections."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, cast, final
from urllib.parse import urlsplit

import msgspec
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout, make_headers, parse_url

from cdc_core import CdcError, ConfigError, redact

from ._aws import Aws, body_until
from ._errors import AnswerLost, AwsAccessError, refused, translated, untrusted_certificate
from ._version import __version__

_CONNECT_TIMEOUT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 1 << 18
# AWS refuses a signature whose time is further off than five minutes
_TOLERATED_SKEW_SECONDS: Final = 240.0


@final
class RawHttp:
    """Posts operations to the Kinesis that boto3's client would talk to; for any thread.

    Certificates are checked as botocore does it (`AWS_CA_BUNDLE`, `ca_bundle` of the profile, `REQUESTS_CA_BUNDLE`,
    otherwise certifi's), and requests go through the proxy of the environment (`HTTPS_PROXY`, `NO_PROXY`).

    Raises:
        ConfigError: no region, or a certificate bundle that cannot be read.
        AwsAccessError: no credentials.
    """

    def __init__(self, aws: Aws, stream: str, *, pool_size: int) -> None:
        self._stream = stream
        client = aws.client("kinesis")
        meta = client.meta
        self._url: str = meta.endpoint_url
        self._region: str = meta.region_name
        self._signing_name: str = meta.service_model.signing_name
        session = aws.session
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        self._credentials = credentials
        self._headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "User-Agent": f"cdc-kinesis/{__version__}",
        }
        self._target: str = meta.service_model.metadata["targetPrefix"]
        ca_bundle: str | None = session._session.get_config_variable("ca_bundle")  # pyright: ignore[reportPrivateUsage] -- boto3 gives its botocore session out by no other name
        self._manager, self._proxied = _open_manager(self._url, ca_bundle, pool_size)
        self._pool = self._manager.connection_from_url(self._url)

    def close(self) -> None:
        """Close the connections; one that is in use closes when its answer is there."""
        self._pool.close()
        self._manager.clear()  # forgets its pools, and closes nothing

    def post(self, operation: str, body: bytes, deadline: float) -> bytes:
        """Send a request once and return the body of a good answer.

        - `deadline`: of `time.monotonic`: nothing is sent after it, and connecting and each wait for the answer end
          by it.

        Raises:
            AnswerLost: a failure of the network, a deadline, or a failure inside the service.
            AwsError, AwsAccessError: the service refused, before it did anything.
            ConfigError: the server's certificate is not trusted.
        """
        where = {"service": "kinesis", "operation": operation, "stream": self._stream}
        headers = self._signed(operation, body, where)
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise AnswerLost("the time for the request was over before it was sent", where=where)
        timeout = Timeout(connect=min(seconds, _CONNECT_TIMEOUT_SECONDS), read=seconds, total=seconds)
        try:
            status, answer_headers, answer = self._exchange(headers, body, timeout, deadline)
        except (HTTPError, OSError) as error:
            raise _network_failure(error, where) from error
        if status == 200:
            return answer
        raise _refusal(status, answer_headers, answer, where)

    def _signed(self, operation: str, body: bytes, where: Mapping[str, object]) -> Mapping[str, str]:
        try:
            # may ask a metadata service or STS for fresh ones
            credentials = self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise translated(error, where=where) from error
        headers = self._headers | {"X-Amz-Target": f"{self._target}.{operation}"}
        request = AWSRequest(method="POST", url=self._url, data=body, headers=headers)
        SigV4Auth(credentials, self._signing_name, self._region).add_auth(request)
        return dict(request.headers.items())

    def _exchange(
        self, headers: Mapping[str, str], body: bytes, timeout: Timeout, deadline: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        # a plain-text request through a proxy names the whole URL; only the manager knows how
        send = self._manager.urlopen if self._proxied else self._pool.urlopen
        response = send(
            "POST",
            self._url if self._proxied else urlsplit(self._url).path or "/",
            body=body_until(deadline, body),
            headers={**headers, "Content-Length": str(len(body))},
            retries=False,
            redirect=False,
            timeout=timeout,
            preload_content=False,
        )
        try:
            chunks: list[bytes] = []
            while chunk := response.read1(_CHUNK_BYTES):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError("the answer took too long")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return response.status, response.headers, chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _open_manager(url: str, ca_bundle: str | None, pool_size: int) -> tuple[urllib3.PoolManager, bool]:
    context = _trusting(ca_bundle) if url.startswith("https:") else None
    proxies = cast("dict[str, str]", get_environ_proxies(url))
    proxy = proxies.get(urlsplit(url).scheme) or proxies.get("all")
    if proxy is None:
        return urllib3.PoolManager(maxsize=pool_size, ssl_context=context), False
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    login = parse_url(proxy).auth
    manager = urllib3.ProxyManager(
        proxy,
        maxsize=pool_size,
        ssl_context=context,
        proxy_headers=make_headers(proxy_basic_auth=login) if login else None,
    )
    return manager, True


def _trusting(ca_bundle: str | None) -> ssl.SSLContext:
    bundle = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or cast("str", get_cert_path(True))
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"the certificate bundle {bundle} cannot be read: {error}",
            remedy="name one in AWS_CA_BUNDLE, or unset it",
        ) from error


def _network_failure(error: Exception, where: Mapping[str, object]) -> CdcError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return untrusted_certificate(cause.verify_message, where=where)
        cause = cause.__context__
    return AnswerLost(
        f"{type(error).__name__}: {redact(str(error))}",
        where=where,
        remedy="check the network and the endpoint",
    )


class _Problem(msgspec.Struct):
    kind: str = msgspec.field(name="__type", default="")
    message: str | None = None
    capital_message: str | None = msgspec.field(name="Message", default=None)


_problem: Final = msgspec.json.Decoder(_Problem).decode


def _refusal(status: int, headers: Mapping[str, str], body: bytes, where: Mapping[str, object]) -> CdcError:
    try:
        problem = _problem(body)
    except msgspec.DecodeError:
        problem = _Problem()
    # "com.amazonaws.kinesis#Code", "Code", or "Code:http://…" (AWS JSON protocol, error types)
    kind = headers.get("x-amzn-errortype") or problem.kind
    code = kind.rsplit("#", 1)[-1].split(":", 1)[0] or f"HTTP {status}"
    message = problem.message or problem.capital_message or ""
    if status >= 500:
        # nothing says how far the service got
        return AnswerLost(f"{code}: {redact(message)}", where=where)
    error = refused(code, message, where=where)
    skew = _clock_skew(headers)
    if isinstance(error, AwsAccessError) and abs(skew) > _TOLERATED_SKEW_SECONDS:
        error.remedy = f"this machine's clock is {skew:+.0f} s off the service's: set it"
    return error


def _clock_skew(headers: Mapping[str, str]) -> float:
    """Return how far our clock is ahead of the service's, as far as its answer says; 0 where it says nothing."""
    try:
        return time.time() - parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return 0.0
