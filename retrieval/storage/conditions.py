"""Conditions on id, label and source, as the WHERE of SQL has them: one, whole, of bounded cost.

    label = 'cat' AND (source LIKE '%/march/%' OR id IN ('a', 'b')) AND NOT lower(source) LIKE '%draft%'

Read here, and evaluated by Arrow. Lance's engine takes what stands before a semicolon for the whole, knows functions
that reach beyond these columns, and is brought down by deep brackets; it hands out no syntax tree that could be looked
through before it is run.
"""

import re
from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retrieval.errors import InvalidArgument

COLUMNS: Final = ("id", "label", "source")
_MOST_CHARACTERS: Final = 1_000_000
_MOST_COMPARISONS: Final = 200  # each goes through all items; a list after IN counts once
_DEEPEST: Final = 50  # brackets, and NOTs
_LONGEST_PATTERN: Final = 1_000
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<word>[A-Za-z_]\w*|\"(?:id|label|source)\")|(?P<sign><>|!=|<=|>=|[=<>(),]))"
)
_COMPARE: Final = {
    "=": "equal",
    "<>": "not_equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_FUNCTIONS: Final = {"lower": "utf8_lower", "upper": "utf8_upper"}
_Rows = Any  # a record batch with the columns
_Value = Callable[[_Rows], Any]  # an array or a scalar of text, or an array of truth; null is neither true nor false


class Condition:
    """A condition that was read; `holds` tells for which rows it is true."""

    def __init__(self, text: str) -> None:
        """Read it.

        Raises:
            InvalidArgument: it is none, or has more parts than are evaluated.
        """
        self._text = text
        if len(text) > _MOST_CHARACTERS:
            raise self._wrong(f"it has {len(text):,} characters, {_MOST_CHARACTERS:,} at most are read")
        self._tokens = self._split(text)
        self._at = self._comparisons = 0
        self.columns: set[str] = set()
        self._value = self._any(0)
        if self._at < len(self._tokens):
            raise self._wrong(f"{self._tokens[self._at]} stands behind its end")

    def holds(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        """Tell of each row with the `columns` whether the condition is true of it."""
        found = self._value(rows)
        if isinstance(found, pa.Scalar):
            found = pa.repeat(found, len(rows))
        return pc.fill_null(found, False)

    def _split(self, text: str) -> list[str]:
        tokens, at = [], 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise self._wrong(f"{text[at:].strip()[:20]!r} cannot be read")
            tokens.append(match["text"] or match["sign"] or match["word"].strip('"').lower())
            at = match.end()
        return tokens

    def _wrong(self, reason: str) -> InvalidArgument:
        shown = self._text if len(self._text) <= 200 else f"{self._text[:200]}…"
        return InvalidArgument(
            f"{shown!r} is no condition on id, label and source ({reason}): write one like label = 'cat', with AND, OR,"
            " NOT, =, <>, <, >, IN, LIKE, ILIKE, BETWEEN, IS NULL, lower() and upper()"
        )

    def _next(self, *wanted: str) -> bool:
        """Tell whether these come next, and go on behind them."""
        there = tuple(self._tokens[self._at : self._at + len(wanted)]) == wanted
        self._at += len(wanted) if there else 0
        return there

    def _expect(self, wanted: str) -> None:
        if not self._next(wanted):
            raise self._wrong(f"{wanted.upper()} is missing {self._here()}")

    def _here(self) -> str:
        return f"before {self._tokens[self._at]}" if self._at < len(self._tokens) else "at its end"

    def _any(self, depth: int) -> _Value:
        return self._joined("or", "or_kleene", self._all, depth)

    def _all(self, depth: int) -> _Value:
        return self._joined("and", "and_kleene", self._one, depth)

    def _joined(self, word: str, function: str, part: Callable[[int], _Value], depth: int) -> _Value:
        parts = [part(depth)]
        while self._next(word):
            parts.append(part(depth))
        return lambda rows: reduce(lambda found, other: _call(function, found, other(rows)), parts[1:], parts[0](rows))

    def _one(self, depth: int) -> _Value:
        if depth > _DEEPEST:
            raise self._wrong(f"brackets and NOTs are nested more than {_DEEPEST} deep")
        if self._next("not"):
            denied = self._one(depth + 1)
            return lambda rows: _call("invert", denied(rows))
        if self._next("("):
            value = self._any(depth + 1)
            self._expect(")")
            return value
        if self._next("true"):
            return lambda _: pa.scalar(True)
        if self._next("false"):
            return lambda _: pa.scalar(False)
        return self._comparison()

    def _comparison(self) -> _Value:
        self._comparisons += 1
        if self._comparisons > _MOST_COMPARISONS:
            raise self._wrong(f"it has more than {_MOST_COMPARISONS} comparisons; use IN for lists")
        left = self._operand()
        for sign, function in _COMPARE.items():
            if self._next(sign):
                right = self._operand()
                return lambda rows: _call(function, left(rows), right(rows))
        if self._next("is"):
            denied = self._next("not")
            self._expect("null")
            return lambda rows: _call("is_valid" if denied else "is_null", left(rows))
        denied = self._next("not")
        value = self._membership(left)
        return (lambda rows: _call("invert", value(rows))) if denied else value

    def _membership(self, left: _Value) -> _Value:
        """Read what may stand behind NOT: IN, LIKE, ILIKE or BETWEEN."""
        if self._next("in"):
            self._expect("(")
            texts = [self._string()]
            while self._next(","):
                texts.append(self._string())
            self._expect(")")
            return lambda rows: _is_in(left(rows), texts)
        if self._next("between"):
            low = self._operand()
            self._expect("and")
            high = self._operand()
            return lambda rows: _call(
                "and_kleene",
                _call("greater_equal", left(rows), low(rows)),
                _call("less_equal", left(rows), high(rows)),
            )
        ignoring = self._next("ilike")
        if not (ignoring or self._next("like")):
            raise self._wrong(f"a comparison is missing {self._here()}")
        pattern = self._string()
        if len(pattern) > _LONGEST_PATTERN:
            raise self._wrong(f"a pattern has {len(pattern)} characters, {_LONGEST_PATTERN} at most are read")
        regex = _regex_of(pattern)
        return lambda rows: pc.match_substring_regex(left(rows), regex, ignore_case=ignoring)

    def _operand(self) -> _Value:
        for function, compute in _FUNCTIONS.items():
            if self._next(function, "("):
                if self._tokens[self._at : self._at + 1] not in [[column] for column in COLUMNS]:
                    raise self._wrong(f"id, label or source is missing {self._here()}")
                operand = self._operand()
                self._expect(")")
                return lambda rows: _call(compute, operand(rows))
        for column in COLUMNS:
            if self._next(column):
                self.columns.add(column)
                return lambda rows: rows[column]
        text = self._string()
        return lambda _: pa.scalar(text)

    def _string(self) -> str:
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if not token.startswith("'"):
            raise self._wrong(f"id, label, source or a text in single quotes is missing {self._here()}")
        self._at += 1
        return token[1:-1].replace("''", "'")


def _call(function: str, *arguments: Any) -> Any:  # noqa: ANN401 - Arrow is untyped
    return pc.call_function(function, list(arguments))


def _is_in(values: Any, texts: list[str]) -> Any:  # noqa: ANN401 - Arrow is untyped
    found = pc.is_in(values, value_set=pa.array(texts))
    return pc.if_else(pc.is_null(values), pa.scalar(None, pa.bool_()), found)  # of what is not known, neither


def _regex_of(pattern: str) -> str:
    """Return what LIKE looks for as a regular expression: % any text, _ one character, a backslash the next one itself.

    Arrow's own LIKE reads a backslash before another backslash in one way or another, as the pattern goes on.
    """
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return rf"(?s)\A{''.join(wild.get(part) or re.escape(part[-1]) for part in parts)}\z"
