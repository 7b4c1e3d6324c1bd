"""Refuse text that ties the repository to one machine or one index, and dead links in Markdown (lint).

Looked for: absolute paths of a home or work folder, host names of package registries, lock files that hold
download addresses. The patterns name families, so that this file passes its own check.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from workspace import ROOT

LINES = {
    "a path of one machine": re.compile(
        r"(?<![\w./~$}])/(?:root|work|(?:home|Users)/[\w.-]+)(?=/|\b(?!:))|[A-Z]:\\+Users\\"
    ),
    "a host name of a package registry": re.compile(
        r"\b(?:[\w-]+\.)*[\w-]*(?:pypi|pythonhosted|npmjs|yarnpkg|maven|golang|crates|debian)[\w-]*"
        r"\.(?:org|com|io|net|dev)\b",
        re.IGNORECASE,
    ),
    "a download address of a package": re.compile(r"https?://[^\s\"']+\.(?:whl|tar\.gz|tgz|jar|deb)\b"),
}
LOCK_FILE = re.compile(r"(?:.*[.-])?lock(?:\.json|\.yaml|b)?|pylock.*\.toml", re.IGNORECASE)
MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_problems(name: str, text: str) -> Iterator[str]:
    """Yield what a file of this name and content holds that it must not."""
    if LOCK_FILE.fullmatch(Path(name).name):
        yield f"{name}: a lock file, which records where each package was downloaded from"
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in LINES.items():
            if match := pattern.search(line):
                yield f"{name}:{number}: {what}: {match.group()}"


def link_problems(path: Path) -> Iterator[str]:
    """Yield the relative links of a Markdown file that lead to no file."""
    prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in MARKDOWN_LINK.findall(prose):
        file = target.partition("#")[0]
        if file and not re.match(r"[a-z]+:", file) and not (path.parent / file).exists():
            yield f"{path}: dead link: {target}"


def repository_files(root: Path) -> list[Path]:
    """Return what is or could be committed: tracked files and the untracked that are not ignored."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for name in sorted(set(names)) if name and (path := root / name).is_file()]


def problems(root: Path) -> Iterator[str]:
    """Yield every problem of the repository's files; those that are not UTF-8 text are checked by name."""
    for path in repository_files(root):
        name = str(path.relative_to(root))
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = ""
        yield from text_problems(name, text)
        # Pages of the site are checked by its own strict build, which also knows generated pages.
        if path.suffix == ".md" and not name.startswith("docs/"):
            yield from link_problems(path)


def main() -> int:
    """Print every problem; return the exit status."""
    found = list(problems(ROOT))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"text: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
