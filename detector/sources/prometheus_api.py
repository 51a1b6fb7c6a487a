"""The query API of Prometheus and of what answers like it (VictoriaMetrics, Thanos, Mimir): a request, an answer."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

import numpy as np

from detector import http_client
from detector.config import loading, values
from detector.config.sections import PrometheusSource
from detector.core.series import Int64
from detector.errors import ConfigError, SourceError, SourceUnavailable
from detector.http_client import NoAnswer

_MOST_BYTES = 256_000_000  # of an answer; a value takes some 25, the labels of a series a few hundred
_PART = 1_000_000
_LATER = {408, 425, 429}
_TOO_MUCH = ("too many", "exceeded maximum resolution", "cannot select more", "exceeds", "maxsamples", "limit")
_REFUSED = {400, 422}

# no cache that aligns ranges to its own grid (VictoriaMetrics), no sum over a part of the shards (Thanos, and it again)
_HONEST = {"nocache": "1", "partial_response": "false", "deny_partial_response": "1"}


class TooMuch(SourceError):
    """The answer is more than the server gives, or more than is read at a time: a shorter range may be asked for."""


@dataclass(frozen=True)
class Columns:
    """An answer as columns."""

    labels: Sequence[Mapping[str, str]]  # of each series, (S,)
    series: Int64  # of each value, (N,)
    time: Int64  # (N,) epoch milliseconds
    written: Sequence[str]  # each value, (N,)


@dataclass(frozen=True)
class Api:
    """A server, and what it takes to be answered."""

    url: str  # up to /api/v1; may hold user and password
    timeout: float  # seconds, for one answer
    token: Callable[[], str] = lambda: ""  # asked for with every request, since it may be renewed; "": none
    trust: ssl.SSLContext | None = None  # None: the authorities this machine trusts

    @property
    def shown(self) -> str:
        """Where it is, without secrets."""
        return http_client.redacted(self.url)

    def series(self, query: str, *, name: str, start: str, end: str, step: str) -> Columns:
        """The values of a query over a range of times.

        name: of the query, for messages

        Raises: SourceUnavailable if there is no answer, TooMuch, SourceError.
        """
        asked = {"query": query, "start": start, "end": end, "step": step, "timeout": f"{self.timeout:g}s", **_HONEST}
        data = self._data("query_range", asked, name)
        try:
            result = data["result"]
            if any("histograms" in one for one in result):
                what = "with numbers; received histograms; write histogram_quantile(0.9, …)"
                raise SourceError(f"source {self.shown} must answer query {name!r} {what}")
            return _columns(result)
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            what = "with series of times and values; received something else"
            raise SourceError(f"source {self.shown} must answer query {name!r} {what}") from exc

    def names(self) -> list[str]:
        """Names of all metrics there are. Raises: as `series`."""
        data = self._data("label/__name__/values", None, "__name__")
        return [str(name) for name in data] if isinstance(data, list) else []

    def _data(self, path: str, asked: Mapping[str, str] | None, name: str) -> Any:
        token = self.token()
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        if not (token.isascii() and token.isprintable()):
            raise ConfigError("token must be one line of ASCII characters (not shown: a secret)")
        body = None if asked is None else urlencode(asked).encode()
        url = f"{self.url.rstrip('/')}/api/v1/{path}"
        try:
            with http_client.answer(url, timeout=self.timeout, body=body, headers=headers, trust=self.trust) as answer:
                status, kind = answer.status, answer.headers.get_content_type()
                target = answer.headers.get("Location", "")
                said = _read(answer)
        except NoAnswer as exc:
            hint = "; name its authority in ca_file" if "CERTIFICATE_VERIFY_FAILED" in str(exc) else ""
            raise SourceUnavailable(f"source {exc}{hint}") from None  # the cause may show the URL
        if len(said) > _MOST_BYTES:
            most = f"{_MOST_BYTES // 1_000_000} MB"
            raise TooMuch(f"source {self.shown} answers query {name!r} with more than {most} at a time")
        if 300 <= status < 400:
            where = f" to {http_client.redacted(target)}" if "://" in target else ""
            raise SourceError(f"source {self.shown} sends on{where} ({status}): write the URL it sends to into `url`")
        found = _decoded(said)
        if status != http.client.OK or found is None or found.get("status") != "success":
            raise self._error(status, kind, found, name)
        if found.get("isPartial"):
            raise SourceUnavailable(
                f"source {self.shown} answers query {name!r} in part only: some of its nodes are down"
            )
        return found.get("data")

    def _error(self, status: int, kind: str, found: Mapping[str, Any] | None, name: str) -> SourceError:
        where = f"source {self.shown}"
        if status in {401, 403}:
            what = "a token (`token` or `token_file`), or user and password in the URL"
            return SourceError(f"{where} does not let this program in ({status}): it needs {what}; or it has expired")
        if status >= 500 or status in _LATER:
            return SourceUnavailable(f"{where} does not answer queries now ({status}){_words(found)}")
        if found is None:
            expected = "the URL must be the one before /api/v1, such as http://host:9090"
            return SourceError(f"{where} must answer with JSON; received {status} {kind}; {expected}")
        is_too_much = any(word in _words(found).lower() for word in _TOO_MUCH)
        if status in _REFUSED and is_too_much:
            return TooMuch(f"{where} does not answer so much of query {name!r}{_words(found)}")
        return SourceError(f"{where} refused query {name!r} ({status}){_words(found)}")


def of(section: PrometheusSource, monitor: str) -> Api:
    """The server of a monitor's section.

    Raises: ConfigError if a file is missing or holds something else.
    """
    url, trust = loading.secret(section), None
    try:
        values.server_url(url)
        if section.ca_file:
            trust = ssl.create_default_context(cafile=section.ca_file)
    except ValueError as exc:
        msg = f"monitor {monitor!r}: url_file {exc}"
        raise ConfigError(msg) from None
    except OSError as exc:
        msg = f"monitor {monitor!r}: ca_file {section.ca_file!r} must hold certificates (PEM): {exc}"
        raise ConfigError(msg) from None
    return Api(url, section.timeout.total_seconds(), partial(loading.secret, section, key="token"), trust)


def _columns(result: Sequence[Mapping[str, Any]]) -> Columns:
    pairs = [pair for one in result for pair in one["values"]]
    time = np.rint(np.array([pair[0] for pair in pairs], dtype=np.float64) * 1000.0).astype(np.int64)
    series = np.repeat(np.arange(len(result)), [len(one["values"]) for one in result])
    return Columns([dict(one["metric"]) for one in result], series, time, [str(pair[1]) for pair in pairs])


def _words(found: Mapping[str, Any] | None) -> str:
    """What an answer says of an error; as the server is told the query, it may repeat it, but never a token."""
    if not found or not found.get("error"):
        return ""
    return f": {' '.join(_printable(str(found['error'])).split())}"


def _printable(text: str) -> str:
    """The beginning of a text, with control characters shown escaped."""
    return "".join(character if character.isprintable() else " " for character in text[:300])


def _decoded(said: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The answer, or a little more than is read at most."""
    parts, size = [], 0
    while size <= _MOST_BYTES and (part := answer.read(_PART)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
