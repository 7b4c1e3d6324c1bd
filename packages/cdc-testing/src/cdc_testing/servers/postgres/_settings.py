import re
from collections.abc import Mapping

from .._errors import ServerError

Setting = str | int | float | bool
"""A server setting's value; text is quoted as postgresql.conf wants it."""

# Ready for logical replication and quick; what a test did not ask for is the server's own default.
DEFAULT_SETTINGS: Mapping[str, Setting] = {
    "wal_level": "logical",
    "max_wal_senders": 50,
    "max_replication_slots": 50,
    "max_prepared_transactions": 10,
    "max_connections": 100,
    "shared_buffers": "32MB",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
    "jit": False,
    # On: statistics and dead rows behave as in production; the first round comes after a minute.
    "autovacuum": True,
}


def render_settings(settings: Mapping[str, Setting]) -> str:
    """The settings as lines of postgresql.conf.

    Not `-c` arguments: those would win over ALTER SYSTEM, which tests use.

    Raises:
        ServerError: if a name is no setting's name.
    """
    lines: list[str] = []
    for name, value in settings.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?", name):
            raise ServerError(
                f"not the name of a setting: {name!r}", remedy="use names as SHOW ALL prints them"
            )
        lines.append(f"{name} = {_quote(value)}\n")
    return "".join(lines)


def _quote(value: Setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    if "\n" in text or "\0" in text:
        raise ServerError("a setting's value may not hold a line break", where=repr(text))
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
