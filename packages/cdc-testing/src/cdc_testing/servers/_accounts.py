import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from ._errors import ServerUnavailableError

# Accounts without rights of their own that Linux distributions, macOS and slim container images have.
_CANDIDATES = ("postgres", "nobody", "daemon")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of this machine that a server runs as."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """The account for a server that refuses to run as root, or None where this process is not root.

    Raises:
        ServerUnavailableError: if we are root and no unprivileged account exists or can be taken on.
    """
    if os.geteuid() != 0:
        return None
    tried: list[str] = []
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
        try:
            # A user namespace may map uid 0 alone; then every change of user fails with EINVAL or EPERM.
            run_as(account, ["/bin/sh", "-c", "exit 0"])
        except OSError as error:
            tried.append(f"{name}: {error.strerror}")
            continue
        return account
    raise ServerUnavailableError(
        "this process is root, the server refuses root, and no unprivileged account can be used",
        where="; ".join(tried) or f"none of {', '.join(_CANDIDATES)} exists",
        remedy="run the tests as an ordinary user, or point CDC_TEST_POSTGRES_DSN to a running server",
    )


def run_as(
    account: Account | None,
    argv: Sequence[str],
    *,
    timeout_seconds: float = 30.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as the account (None: as ourselves) and capture its output."""
    return subprocess.run(
        list(argv),
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        cwd="/",
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        check=False,
    )


def account_can(account: Account | None, test: str, *paths: str) -> bool:
    """Whether the account passes `test` ("-r", "-x") on each path, as the system itself sees it."""
    if account is None:
        return True
    script = f'for path; do test {test} "$path" || exit 1; done'
    return run_as(account, ["/bin/sh", "-c", script, "sh", *paths]).returncode == 0
