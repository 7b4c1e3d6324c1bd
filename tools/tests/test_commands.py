"""What the README promises, CI runs, and the noxfile defines are the same."""

from __future__ import annotations

import os
import re

from workspace import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*)\n```$", README, flags=re.MULTILINE)


def test_the_readme_gives_two_commands_one_for_the_demo_and_one_for_the_tests() -> None:
    assert COMMANDS == [
        "python -m pip install nox && python -m nox -s demo",
        "python -m pip install nox && python -m nox",
    ]


def test_ci_runs_the_readmes_test_command_and_ends_with_it() -> None:
    script = ROOT / ".ci" / "run"
    assert script.read_text(encoding="utf-8").splitlines()[-1] == COMMANDS[1]
    assert os.access(script, os.X_OK)


def test_contributing_names_every_session_of_the_noxfile() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)", noxfile, flags=re.MULTILINE)) - {
        "wheels"
    }
    listed = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(sessions)
