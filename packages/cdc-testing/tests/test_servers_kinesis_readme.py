"""What the README shows of the Kinesis server is run as it stands."""

import re
from pathlib import Path

_README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_use_of_the_kinesis_server_works() -> None:
    programs = re.findall(
        r"<!-- executed by tests/test_servers_kinesis_readme.py -->\n```python\n(.*?)```",
        _README.read_text(),
        re.DOTALL,
    )
    [program] = programs
    exec(compile(program, str(_README), "exec"), {})
