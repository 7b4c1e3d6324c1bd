import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .._accounts import Account, account_can
from .._errors import ServerUnavailableError
from ._builds import Build, share_directory

_COPY_REMEDY = (
    "make the directory of the PostgreSQL programs readable to all, or name another cache: CDC_TEST_CACHE_DIR"
)


def executable_by(build: Build, account: Account | None) -> Build:
    """The build itself where the account can run it, otherwise a copy in a cache that it can read, made once.

    Root's virtual environment often lies below a home directory of mode 0700, where the account a server is
    given cannot even look.

    Raises:
        ServerUnavailableError: if no directory for the copy can be used.
    """
    if account is None or _usable(build, account):
        return build
    name = f"{build.source}-{build.version}-{_fingerprint(build)}"
    target = cache_directory(account) / name
    if not target.is_dir():
        _copy(build, target)
    copied = replace(build, root=target, bin_dir=target / build.bin_dir.relative_to(build.root))
    if not _usable(copied, account):
        raise ServerUnavailableError(
            f"the account {account.name} can run PostgreSQL neither in place nor from its copy",
            where=f"{build.bin_dir}; copy {target}",
            remedy=_COPY_REMEDY,
        )
    return copied


def cache_directory(account: Account | None = None) -> Path:
    """A directory of ours for things worth keeping, which the account can read; made if it is not there.

    In order: CDC_TEST_CACHE_DIR; for an ordinary user the XDG cache directory; for root, whose home others
    cannot read, /var/cache, then /var/tmp.

    Raises:
        ServerUnavailableError: if none can be used.
    """
    refusals: list[str] = []
    for path in _cache_candidates():
        try:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            refusals.append(f"{path}: {error.strerror}")
            continue
        status = path.lstat()
        # A directory that somebody else can write would let them choose the programs we run.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            refusals.append(f"{path}: not a directory that we alone may write")
        elif not account_can(account, "-x", str(path)):
            refusals.append(f"{path}: not reachable for {account.name if account else 'us'}")
        else:
            return path
    raise ServerUnavailableError(
        "no directory to keep copies in", where="; ".join(refusals), remedy=_COPY_REMEDY
    )


def _cache_candidates() -> Sequence[Path]:
    if chosen := os.environ.get("CDC_TEST_CACHE_DIR"):
        return [Path(chosen).absolute()]
    if os.geteuid() == 0:
        return [Path("/var/cache/cdc-testing"), Path("/var/tmp/cdc-testing-root")]
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [home_cache / "cdc-testing", Path(tempfile.gettempdir()) / f"cdc-testing-{os.geteuid()}"]


def _usable(build: Build, account: Account) -> bool:
    programs = [str(build.bin_dir / name) for name in ("postgres", "initdb")]
    if not account_can(account, "-x", *programs):
        return False
    share = share_directory(build.bin_dir)
    return share is None or account_can(account, "-r", str(share / "postgres.bki"))


def _fingerprint(build: Build) -> str:
    program = (build.bin_dir / "postgres").stat()
    text = f"{build.root}\n{build.parts}\n{program.st_size}\n{program.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _copy(build: Build, target: Path) -> None:
    # Made beside its place and renamed: another process that starts a server now sees all of it or nothing.
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for part in build.parts:
            shutil.copytree(
                build.root / part,
                scratch / part,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.a", "include", "pkgconfig"),
                dirs_exist_ok=True,
            )
        _open_to_all(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open_to_all(directory: Path) -> None:
    for parent, _, names in os.walk(directory):
        os.chmod(parent, 0o755)
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
