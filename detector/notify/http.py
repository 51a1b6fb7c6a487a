"""Requests to the targets of notifications."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from detector import http_client
from detector.errors import NotifyError, NotifyUnavailable
from detector.http_client import NoAnswer, redacted

__all__ = ["reach", "redacted", "request"]

_LATER = {408, 425, 429}  # the target means: not now
_ANSWER_BYTES = 300


@dataclass(frozen=True)
class Answer:
    """A 2xx answer."""

    status: str  # such as 200 OK
    said: bytes  # its beginning; of a post it is not read


def request(url: str, *, timeout: float, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Posts a body, or gets without one; the answer.

    timeout: seconds for the whole request, after each address of the host's name had as long to take the connection

    Raises: NotifyUnavailable if there is no answer or one that means "later", NotifyError for any other than 2xx.
    """
    try:
        with http_client.answer(url, timeout=timeout, body=body, headers=headers) as answer:
            status, reason_phrase = answer.status, answer.reason
            is_taken = 200 <= status < 300
            # a message that was taken stays taken, even if the remainder of the answer does not come
            said = b"" if is_taken and body is not None else answer.read(_ANSWER_BYTES)
    except NoAnswer as exc:
        raise NotifyUnavailable(str(exc)) from None  # the cause may show the URL
    if is_taken:
        return Answer(f"{status} {reason_phrase}".strip(), said)
    words = " ".join(said.decode(errors="replace").split())
    msg = f"{redacted(url)} must answer 2xx; received {status}{f' {words}' if words else ''}"
    raise (NotifyUnavailable if status >= 500 or status in _LATER else NotifyError)(msg)


def reach(url: str, timeout: float) -> None:
    """Connects without a request, or to the proxy a request would go through.

    Raises: NotifyUnavailable if nobody listens.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.connect()
    except OSError as exc:
        msg = f"{redacted(url)} does not answer: {exc}; is the URL right, does it run?"
        raise NotifyUnavailable(msg) from None
    finally:
        connection.close()
