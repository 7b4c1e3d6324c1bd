"""Checks a config dataclass against the constraints in its annotations."""

from __future__ import annotations

from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from ._errors import ConfigError


def check_constraints(config: object) -> None:
    """Check a config dataclass against the `annotated_types` in its annotations.

    Raises:
        ConfigError: names the field, its value and the bound.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value: object = getattr(config, name)
        for rule in _rules(hint):
            if value is not None and (broken := _broken(rule, value)):
                raise ConfigError(f"{name} is {value!r}", remedy=f"it has to be {broken}")


def _rules(hint: object) -> tuple[object, ...]:
    own: tuple[object, ...] = getattr(hint, "__metadata__", ())
    if own or get_origin(hint) not in (Union, UnionType):
        return own
    # `Annotated[int, Ge(1)] | None`: the rules stand one level down
    return tuple(rule for part in get_args(hint) for rule in getattr(part, "__metadata__", ()))


def _broken(rule: object, value: object) -> str:
    match rule, value:
        case Ge(ge=int() as bound), int() | float() if value < bound:
            return f"{bound} or more"
        case Gt(gt=int() as bound), int() | float() if value <= bound:
            return f"more than {bound}"
        case Le(le=int() as bound), int() | float() if value > bound:
            return f"{bound} or less"
        case MinLen(min_length=bound), str() if len(value) < bound:
            return "a name, not empty"
        case MaxLen(max_length=bound), str() if len(value.encode()) > bound:
            return f"{bound} bytes at most"
        case _:
            return ""
