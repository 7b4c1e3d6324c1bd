import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from .._accounts import run_as
from .._errors import ServerUnavailableError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate for 127.0.0.1 and localhost, its key, and what clients verify it with."""

    certificate: Path
    key: Path
    authority: Path


def make_certificate(directory: Path) -> Certificate:
    """Make a certificate in a directory, with the program `openssl` or, without it, the package `trustme`.

    Raises:
        ServerUnavailableError: if neither is there.
    """
    files = Certificate(
        certificate=directory / "server.crt", key=directory / "server.key", authority=directory / "ca.crt"
    )
    if (openssl := shutil.which("openssl")) is not None:
        _with_openssl(openssl, files)
    elif importlib.util.find_spec("trustme") is not None:
        _with_trustme(files)
    else:
        raise ServerUnavailableError(
            "neither the program openssl nor the package trustme is there to make a certificate with",
            remedy="install openssl, or pip install 'cdc-testing[tls]'",
        )
    files.key.chmod(0o600)
    for path in (files.certificate, files.authority):
        path.chmod(0o644)  # whatever the umask: the server's account reads them
    return files


def _with_openssl(openssl: str, files: Certificate) -> None:
    # Self-signed: the certificate is its own authority, which libpq's verify-full accepts.
    argv = [openssl, "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    argv += ["-keyout", str(files.key), "-out", str(files.certificate)]
    answer = run_as(None, argv)
    if answer.returncode != 0:
        raise ServerUnavailableError(
            "openssl made no certificate",
            where=answer.stderr.strip()[-400:],
            remedy="install openssl 1.1.1 or newer, or remove it and pip install 'cdc-testing[tls]'",
        )
    shutil.copyfile(files.certificate, files.authority)


def _with_trustme(files: Certificate) -> None:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(files.authority))
    issued.private_key_pem.write_to_path(str(files.key))
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(str(files.certificate), append=number > 0)
