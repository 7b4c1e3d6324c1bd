"""The source text of a relation's row functions, and its compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any, final

from ._errors import DecodeError
from ._registry import ValueCodec
from ._wire import U32

__all__ = ["FunctionSource", "compile_function"]

# Every digit becomes 0: what a value looks like is then one comparison, exact and in C.
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
# Debezium's ISO strings have a T where PostgreSQL has a blank.
_ISO = bytes.maketrans(b" ", b"T")

# Whole fields, kind and length included.
_BOOLS = {b"t\0\0\0\1t": "true", b"t\0\0\0\1f": "false"}

# What reads the text at b[o:e] into {v}, for the types that rows are mostly made of; {c} is the type's own
# function, which takes whatever the fast test in front of it does not recognise: signs, NaN, and what is
# malformed.
_INLINE = {
    "text": ["{v}=ESC(b[o:e].decode())"],
    "integer": ["x=b[o:e]", "{v}=x.decode() if b[o]>48 and x.isdigit() else {c}(x.decode())"],
    # What is left when digits are taken off both ends is nothing, or the point alone; x[0] also refuses no text.
    "numeric": [
        "x=b[o:e]",
        "{v}=f'\"{{x.decode()}}\"' if x.strip(DIGITS) in POINT and x[0]>47 else {c}(x.decode())",
    ],
    "float": [
        "x=b[o:e]",
        "if x.strip(DIGITS)==b'.' and b[e-1]!=46 and (b[o]>48 or b[o+1]==46): {v}=x.decode()",
        "elif b[o]>48 and x.isdigit(): {v}=f'{{x.decode()}}.0'",
        "else: {v}={c}(x.decode())",
    ],
    # With fewer digits than the column's precision, as a tenth of all timestamps have: PostgreSQL prints no zeros
    # at the end. The regular expression behind {c} costs 1.2 us more.
    "timestamp": [
        "x=b[o:e]",
        "{v}=f'\"{{x.translate(ISO).decode()}}Z\"' if x.translate(ZEROS) in SHAPES else {c}(x.decode())",
    ],
    "timestamptz": [
        "x=b[o:e];p={p}.get(x[:-3].translate(ZEROS)) if x[-3:]==b'+00' else None",
        "{v}=f'\"{{x.translate(ISO)[:-3].decode()}}{{p}}Z\"' if p is not None else {c}(x.decode())",
    ],
}
_POINT = (b".", b"")
_SECOND = b"0000-00-00 00:00:00"
_SHAPES = frozenset({_SECOND, *(_SECOND + b"." + b"0" * digits for digits in range(1, 7))})
_CALL = ["{v}={c}(b[o:e].decode())"]


def _pads(precision: int) -> dict[bytes, str]:
    """The shape of a timestamptz without its zone, to what is missing of its `precision` digits."""
    pads = {_SECOND: f".{'0' * precision}" if precision else ""}
    for digits in range(1, precision + 1):
        pads[_SECOND + b"." + b"0" * digits] = "0" * (precision - digits)
    return pads


def _whole_field(codec: ValueCodec, variable: str) -> list[str]:
    """Code that recognises a type's usual field by its fixed length and shape; an `else` must follow.

    Empty for types whose values differ in length.
    """
    fraction = b"." + b"0" * codec.precision if codec.precision else b""
    match codec.inline:
        case "bool":
            return [f"{variable}=BOOLS.get(b[o:o+6])", f"if {variable}: o+=6"]
        case "date":
            value, cut, zone = b"0000-00-00", "5:", ""
        case "timestamp":
            value, cut, zone = b"0000-00-00 00:00:00" + fraction, "5:", ""
        case "timestamptz":
            # the shape does not tell +00 from +07, the last two digits do
            value, cut, zone = b"0000-00-00 00:00:00" + fraction + b"+00", "5:-3", " and b[o+{}]==48==b[o+{}]"
        case _:
            return []
    field = b"t" + len(value).to_bytes(4) + value
    size = len(field)
    return [
        f"x=b[o:o+{size}]",
        f"if x.translate(ZEROS)=={field!r}{zone.format(size - 1, size - 2)}:",
        f" {variable}=f'\"{{x.translate(ISO)[{cut}].decode()}}Z\"';o+={size}",
    ]


@final
class FunctionSource:
    """Collects the lines of one function. `b` is the payload, `o` the offset, `s` the offset it was called
    with.
    """

    def __init__(
        self,
        name: str,
        json_names: Sequence[str],
        codecs: Sequence[ValueCodec],
        key_positions: Sequence[int],
        default_offset: int | None,
    ) -> None:
        self.name = name
        self.codecs = codecs
        self._json_names = json_names
        self._key_positions = key_positions
        self._count = len(codecs).to_bytes(2)
        default = "" if default_offset is None else f"={default_offset}"
        self.head = f"def {name}(b,o{default}):"
        self.body: list[str] = []
        self.result = ""

    def divert_unless(self, marker: int, function: str) -> None:
        self.body.append(f"if b[o]!={marker}: return {function}(b,o)")

    def expect_header(self, *markers: int) -> None:
        """The byte that announces a tuple, and the tuple's column count."""
        headers = [bytes([marker]) + self._count for marker in markers]
        test = f"!={headers[0]!r}" if len(headers) == 1 else f" not in {tuple(headers)!r}"
        self.body += [f"if b[o:o+3]{test}: raise ValueError", "o+=3"]

    def expect_count(self) -> None:
        self.body += [f"if b[o:o+2]!={self._count!r}: raise ValueError", "o+=2"]

    def expect_end(self) -> None:
        # slices do not fail beyond the end, so this also finds a value that was cut short
        self.body.append("if o!=len(b): raise ValueError")

    def expect_inside(self) -> None:
        self.body.append("if o>len(b): raise ValueError")

    def read_columns(
        self,
        prefix: str,
        *,
        only: frozenset[int] | None = None,
        fill_from: str | None = None,
        filled: frozenset[int] = frozenset(),
    ) -> None:
        """Read each column into `prefix` + its number; an unsent value of those in `filled` from `fill_from`
        + its number.
        """
        for index, codec in enumerate(self.codecs):
            if only is not None and index not in only:
                self.body += [
                    "k=b[o]",
                    "if k==116 or k==98: o+=5+U32(b,o+1)[0]",
                    "elif k==110 or k==117: o+=1",
                    "else: raise ValueError",
                ]
                continue
            variable = f"{prefix}{index}"
            fill = f"{fill_from}{index}" if index in filled else "None"
            general = ["k=b[o]", "if k==116:", " o+=5;e=o+U32(b,o-4)[0]"]
            lines = _INLINE.get(codec.inline or "", _CALL)
            general += [" " + line.format(v=variable, c=f"C{index}", p=f"P{index}") for line in lines]
            general += [
                " o=e",
                f"elif k==110: {variable}='null';o+=1",
                f"else: {variable},o=X{index}(b,o,{fill})",
            ]
            usual = _whole_field(codec, variable)
            if usual:
                self.body += [*usual, "else:", *(f" {line}" for line in general)]
            else:
                self.body += general

    def object_of(self, prefix: str, positions: Sequence[int]) -> str:
        """An f-string that is a JSON object of these columns."""
        literal = ",".join(
            f"{self._json_names[index].replace('{', '{{').replace('}', '}}')}:{{{prefix}{index}}}"
            for index in positions
        )
        return "f" + repr(f"{{{{{literal}}}}}")

    def row(self, prefix: str) -> str:
        return self.object_of(prefix, range(len(self.codecs)))

    def key(self, prefix: str) -> str:
        return self.object_of(prefix, self._key_positions) if self._key_positions else "None"

    def returns(self, expression: str) -> None:
        self.result = f"return {expression}"

    def returns_with_old_key(self) -> None:
        self.result = (
            f"n={self.key('v')};p={self.key('w')};"
            f"return {self.row('w')}, {self.row('v')}, n, (None if n==p else p)"
        )


def compile_function(
    source: FunctionSource,
    *,
    others: Sequence[Callable[[bytes, int, str | None], tuple[str, int]]],
    fail: Callable[[bytes, int, Exception], DecodeError],
    **extra: object,
) -> Any:
    """Compile a function; whatever goes wrong inside it leaves as the DecodeError that `fail` makes of it."""
    names: dict[str, object] = {
        "U32": U32.unpack_from,
        "ESC": encode_basestring,
        "BOOLS": _BOOLS,
        "ZEROS": _ZEROS,
        "ISO": _ISO,
        "DIGITS": b"0123456789",
        "POINT": _POINT,
        "SHAPES": _SHAPES,
        "FAIL": fail,
        "DecodeError": DecodeError,
        **extra,
    }
    for index, (codec, other) in enumerate(zip(source.codecs, others, strict=True)):
        names[f"C{index}"] = codec.to_json
        names[f"X{index}"] = other
        if codec.inline == "timestamptz":
            names[f"P{index}"] = _pads(codec.precision)
    lines = [
        f"def make({','.join(names)}):",
        f" {source.head}",
        "  s=o",
        "  try:",
        *(f"   {line}" for line in source.body),
        "  except Exception as error: raise FAIL(b,s,error) from error",
        f"  {source.result}",
        f" return {source.name}",
    ]
    namespace: dict[str, Any] = {}
    exec("\n".join(lines), namespace)
    return namespace["make"](**names)
