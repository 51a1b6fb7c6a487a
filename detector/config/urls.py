"""URLs of the configuration: what `${NAME}` puts into one arrives as it is, whatever characters it holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

_PATH = "/:@!$&'()*+,;="  # characters that mean themselves in the path of a URL


def encoder(template: str, placeholder: re.Pattern[str]) -> Callable[[int, str], str]:
    """How a value must be written at a position of a URL with placeholders, so that it is read as it is.

    A value that brings the scheme, such as a whole URL, stays as it is; so do host and port, which know no encoding.
    """
    shape = placeholder.sub(lambda match: "\0" * len(match[0]), template)
    scheme = shape.find("://")
    begin = scheme + len("://")
    authority = re.compile(r"[^/?#]*").match(shape, begin)
    end = authority.end() if authority and scheme >= 0 else 0
    user_end = shape.rfind("@", begin, end)
    question = shape.find("?", end)

    def encoded(position: int, value: str) -> str:
        if scheme < 0 or position < scheme:
            return value
        if position < user_end:
            has_both = position == begin and "\0" in shape[begin:user_end] and not shape[begin:user_end].strip("\0")
            return ":".join(quote(part, safe="") for part in (value.split(":", 1) if has_both else [value]))
        if position < end:
            return value
        if question >= 0 and position > question:
            return quote(value, safe="") if shape[position - 1] == "=" else value
        if shape.startswith("http"):
            return quote(value, safe=_PATH)
        # the path of a file, or the name of a database: only what would end it or be decoded
        return value.replace("%", "%25").replace("?", "%3F")

    return encoded
