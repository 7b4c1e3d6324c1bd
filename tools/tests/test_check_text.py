"""Text that must not be in the repository. It is spelt in two parts here, so that this file is clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_text import link_problems, text_problems


@pytest.mark.parametrize(
    "text",
    [
        "/" + "root/project/file.py",
        'path = "/' + 'home/somebody/project"',
        "cd /" + "work/tree",
        "open('/" + "Users/somebody/x')",
        "see https://py" + "pi.org/project/nox",
        "index-url = https://files.python" + "hosted.org/packages",
        "https://registry.npm" + "js.org/left-pad",
        'url = "https://host.example/a/b-1.0-py3-none-any' + '.whl"',
    ],
)
def test_what_ties_the_repository_to_a_machine_or_an_index_is_found(text: str) -> None:
    assert list(text_problems("README.md", f"before\n{text}\nafter"))


@pytest.mark.parametrize(
    "text",
    [
        "run it in ~/work/tree",
        "/usr/lib/postgresql/15/bin",
        "GET /workers",
        "${HOME}/root/x",
        "docs/root/page",
        "@app.get('/rooted')",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert list(text_problems("README.md", text)) == []


@pytest.mark.parametrize(
    "name", ["uv.lock", "packages/a/poetry.lock", "package-lock.json", "pylock.dev.toml"]
)
def test_a_lock_file_is_found_by_its_name(name: str) -> None:
    assert list(text_problems(name, ""))


@pytest.mark.parametrize("name", ["_locking.py", "src/lock.py", "block.json", "docs/lock-order.md"])
def test_a_file_about_locks_is_not_a_lock_file(name: str) -> None:
    assert list(text_problems(name, "")) == []


def test_a_relative_link_must_lead_to_a_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](page.md#part) [b](https://host.example) [c](missing.md)\n```\n[d](code.md)\n```\n")
    assert [line.rpartition(" ")[2] for line in link_problems(page)] == ["missing.md"]
