"""PromQL as far as it must be understood: where an expression looks at series at one moment.

There Prometheus takes the last sample of five minutes, so a value would be repeated after it has ended. Rendered for a
slot, such a place looks at the samples of that slot and at no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
      | (?P<text>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`)
      | (?P<number>\.?\d[\w.]*)
      | (?P<name>[a-zA-Z_:][\w:]*)
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(r"[a-zA-Z_:][\w:]*", re.ASCII)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {*_LABEL_LISTS, "and", "or", "unless", "atan2", "bool", "offset", "inf", "nan"}
_AS_THEY_ARE = {"timestamp", "absent"}
"""Functions that ask about the sample or the selector itself, and repeat no value."""

OVER_TIME = {
    "mean": "avg_over_time",
    "last": "last_over_time",
    "min": "min_over_time",
    "max": "max_over_time",
    "sum": "sum_over_time",
    "count": "count_over_time",
}
"""The function that makes one value of a slot's samples, by `aggregate`."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


@dataclass(frozen=True)
class _Selector:
    """Series at one moment: `up{job="web"}`, and what moves the moment: `offset 5m`."""

    text: str
    moved: str

    def within(self, span: int, function: str) -> str:
        """The value of `span` milliseconds that end at that moment."""
        return f"{function}({self.text}[{span}ms]{self.moved})"


@dataclass(frozen=True)
class Expression:
    """A query, cut where it looks at series at one moment."""

    parts: tuple[str | _Selector, ...]

    @property
    def is_selector(self) -> bool:
        """Whether it is nothing but a selector, so that its samples are aggregated as those of other sources."""
        return len(self.parts) == 1 and isinstance(self.parts[0], _Selector)

    def within(self, span: int, aggregate: str) -> str:
        """The query that looks at a slot of `span` milliseconds only, where it looks at one moment.

        >>> parsed("up").within(60_000, "mean"), parsed("sum by (job) (up)").within(60_000, "mean")
        ('avg_over_time(up[60000ms])', 'sum by (job) (last_over_time(up[60000ms]))')
        """
        function = OVER_TIME[aggregate if self.is_selector else "last"]
        return "".join(part if isinstance(part, str) else part.within(span, function) for part in self.parts)


def is_metric_name(name: str) -> bool:
    """Whether a name can stand in a query as it is."""
    return bool(_NAME.fullmatch(name)) and name.lower() not in _WORDS


def parsed(query: str) -> Expression:
    """A query as the places where it looks at one moment, and the text between them.

    Raises: ValueError if its value would depend on where a read begins or ends, or a bracket is not closed.
    """
    found = ((str(match.lastgroup), match[0]) for match in _TOKEN.finditer(query.strip()))
    tokens = [_Token(kind, " " if text.startswith("#") else text) for kind, text in found]  # without comments
    while tokens and tokens[-1].kind == "blank":
        tokens.pop()
    if any(token.text == "@" and _next(tokens, at + 1).kind == "name" for at, token in enumerate(tokens)):
        msg = "must not use @ start() or @ end(): values would depend on where a read begins"
        raise ValueError(msg)
    parts: list[str | _Selector] = []
    for part in _parts(tokens):
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return Expression(tuple(parts))


def _parts(tokens: Sequence[_Token]) -> Iterator[str | _Selector]:
    at, inside, before = 0, [""], ""  # inside: functions whose arguments these are; before: the last name or sign
    while at < len(tokens):
        token = tokens[at]
        end = at + 1
        if token.text in {"[", "{"} or token.kind == "name":
            end = _end(tokens, at)
        if _is_selector(tokens, at, before):
            last = _moved_until(tokens, end)
            text, moved = _text(tokens[at:end]), _text(tokens[end:last])
            is_argument = before == "(" and _next(tokens, last).text == ")"
            is_kept = _is_range(tokens, end) or (is_argument and inside[-1] in _AS_THEY_ARE)
            yield text + moved if is_kept else _Selector(text, f" {moved.strip()}" if moved.strip() else "")
            if not is_kept and moved != moved.rstrip():
                yield " "
            at, before = last, ")"
            continue
        if token.text == "(":
            inside.append(before)
        elif token.text == ")" and len(inside) > 1:
            inside.pop()
        yield _text(tokens[at:end])
        if token.kind != "blank":
            before = token.text
        at = end


def _is_selector(tokens: Sequence[_Token], at: int, before: str) -> bool:
    token = tokens[at]
    if token.text == "{":
        return True
    if token.kind != "name" or token.text.lower() in _WORDS:
        return False
    after = _next(tokens, at + 1)
    is_aggregation = after.kind == "name" and after.text.lower() in {"by", "without"}
    return after.text != "(" and not is_aggregation


def _end(tokens: Sequence[_Token], at: int) -> int:
    """Index behind a bracket and what it holds, a list of labels, or a name and its matchers."""
    if tokens[at].text in _CLOSING:
        return _closed(tokens, at)
    following = _skipped(tokens, at + 1)
    sign = tokens[following].text if following < len(tokens) else ""
    is_list = tokens[at].text.lower() in _LABEL_LISTS and sign == "("
    is_matched = tokens[at].text.lower() not in _WORDS and sign == "{"
    return _closed(tokens, following) if is_list or is_matched else at + 1


def _closed(tokens: Sequence[_Token], at: int) -> int:
    closing = _CLOSING[tokens[at].text]
    for index in range(at + 1, len(tokens)):
        if tokens[index].text == closing:
            return index + 1
    msg = f"has a {tokens[at].text} that is not closed"
    raise ValueError(msg)


def _moved_until(tokens: Sequence[_Token], at: int) -> int:
    """Index behind the `offset` and `@` that follow."""
    begin = _skipped(tokens, at)
    if begin == len(tokens) or tokens[begin].text.lower() not in {"offset", "@"}:
        return at
    value = _skipped(tokens, begin + 1)
    while value < len(tokens) and tokens[value].text in {"-", "+"}:
        value = _skipped(tokens, value + 1)
    return _moved_until(tokens, min(value + 1, len(tokens)))


def _is_range(tokens: Sequence[_Token], at: int) -> bool:
    """Whether a range follows, such as [5m]; [1h:1m] is none, but many moments."""
    begin = _skipped(tokens, at)
    if begin == len(tokens) or tokens[begin].text != "[":
        return False
    return ":" not in _text(tokens[begin : _closed(tokens, begin)])


def _skipped(tokens: Sequence[_Token], at: int) -> int:
    while at < len(tokens) and tokens[at].kind == "blank":
        at += 1
    return at


def _next(tokens: Sequence[_Token], at: int) -> _Token:
    index = _skipped(tokens, at)
    return tokens[index] if index < len(tokens) else _Token("sign", "")


def _text(tokens: Sequence[_Token]) -> str:
    return "".join(token.text for token in tokens)
