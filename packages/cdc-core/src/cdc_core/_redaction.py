"""Blots credentials out of text that other people's exceptions wrote."""

from __future__ import annotations

import re

_SECRETS = (
    # libpq keyword=value, quoted or not, and the same in JSON or reprs
    re.compile(
        r"""(?i)((?:pass(?:word|wd|phrase)?|sslpassword|secret|token|api_?key|secret_access_key)["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&'"}]+)"""
    ),
    # scheme://user:password@host
    # scheme://user:password@host; bounded, since an unbounded scheme or user is quadratic on hostile text
    re.compile(
        r"""(?i)((?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,31}://[^\s:/@'"]{0,256}:)([^\s@'"]{1,1024})(?=@)"""
    ),
    re.compile(r"(?i)(authorization:\s*(?:\w+\s+)?)(\S+)"),
)


def redact(text: str) -> str:
    """Return the text with the values of passwords, tokens and the like replaced by `***`."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text
