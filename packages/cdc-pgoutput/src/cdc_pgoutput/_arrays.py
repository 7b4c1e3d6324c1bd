"""PostgreSQL's text forms that hold other values: arrays, int2vector, hstore.

https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO and hstore.html
"""

from __future__ import annotations

import re
from typing import TypeAlias

__all__ = ["Nested", "array_literal", "parse_array", "parse_hstore"]

# An array's elements as text, None for NULL, one list per dimension.
Nested: TypeAlias = "list[str | Nested | None]"

# PostgreSQL's MAXDIM: also our bound on nesting, so that hostile text cannot exhaust the stack of what walks
# the result.
_MAX_DIMENSIONS = 6

_BOUNDS = re.compile(r"(?:\[-?\d+:-?\d+\]){1,6}=", re.ASCII)
_QUOTED = r'"((?:[^"\\]|\\.)*)"'


def _compile_tokens(delimiter: str) -> re.Pattern[str]:
    mark = re.escape(delimiter)
    return re.compile(rf'{_QUOTED}|([^{{}}"\\{mark}]+)|([{{}}{mark}])', re.DOTALL)


_TOKENS = {delimiter: _compile_tokens(delimiter) for delimiter in ",;"}
_UNESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PAIR = re.compile(rf"{_QUOTED}=>(?:{_QUOTED}|(NULL))(?:, |\Z)", re.DOTALL)


def parse_array(text: str, delimiter: str = ",") -> Nested:
    """Read an array's text; lower bounds are dropped, dimensions become nested lists.

    Raises: ValueError when the text is not an array's.
    """
    if text[:1] == "[":
        bounds = _BOUNDS.match(text)
        if bounds is None:
            raise ValueError("array bounds are malformed")
        text = text[bounds.end() :]
    if text[:1] != "{" or text[-1:] != "}" or len(text) < 2:
        raise ValueError("an array must stand in braces")
    inner = text[1:-1]
    if not inner:
        return []
    if '"' in inner or "{" in inner or "}" in inner or "\\" in inner:
        return _parse_tokens(text, delimiter)
    elements: Nested = [None if part == "NULL" else part for part in inner.split(delimiter)]
    if "" in elements:
        raise ValueError("an array element is empty and not quoted")
    return elements


# What may stand behind what: v is a value, the empty string the beginning.
_MAY_FOLLOW = {"": "{", "{": "v{}", ",": "v{", "v": ",}", "}": ",}"}


def _parse_tokens(text: str, delimiter: str) -> Nested:
    root: Nested = []
    stack = [root]
    position, previous = 0, ""
    pattern = _tokens(delimiter)
    # match and not finditer, which would search on behind what fits nowhere, in quadratic time
    while match := pattern.match(text, position):
        mark = match[3]
        token = "v" if mark is None else "," if mark == delimiter else mark
        is_finished = len(stack) == 1 and previous != ""
        if token not in _MAY_FOLLOW[previous] or is_finished:
            break
        position, previous = match.end(), token
        if token == "v":
            stack[-1].append(_element(match))
        elif token == "{":
            stack.append(_opened(stack))
        elif token == "}":
            stack.pop()
    if position != len(text) or len(stack) != 1:
        raise ValueError(f"array text is malformed at character {position}")
    array = root[0]
    assert isinstance(array, list)
    return array


def _tokens(delimiter: str) -> re.Pattern[str]:
    return _TOKENS.get(delimiter) or _compile_tokens(delimiter)


def _opened(stack: list[Nested]) -> Nested:
    if len(stack) > _MAX_DIMENSIONS:
        raise ValueError(f"an array has more than {_MAX_DIMENSIONS} dimensions")
    inner: Nested = []
    stack[-1].append(inner)
    return inner


def _element(match: re.Match[str]) -> str | None:
    if match[1] is not None:
        return _UNESCAPE.sub(r"\1", match[1])
    bare = match[2]
    return None if bare == "NULL" else bare


def array_literal(elements: Nested, delimiter: str = ",") -> str:
    """Write an array's text with every element quoted: the inverse of `parse_array`."""
    parts: list[str] = []
    for element in elements:
        if element is None:
            parts.append("NULL")
        elif isinstance(element, str):
            escaped = element.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{escaped}"')
        else:
            parts.append(array_literal(element, delimiter))
    return "{" + delimiter.join(parts) + "}"


def parse_hstore(text: str) -> dict[str, str | None]:
    """Read an hstore's text.

    Raises: ValueError when the text is not an hstore's.
    """
    pairs: dict[str, str | None] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            raise ValueError(f"hstore text is malformed at character {position}")
        position = match.end()
        value = match[2]
        pairs[_UNESCAPE.sub(r"\1", match[1])] = None if value is None else _UNESCAPE.sub(r"\1", value)
    if text.endswith(", "):
        raise ValueError("hstore text ends in a comma")
    return pairs
