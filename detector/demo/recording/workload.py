"""A small web service, its clients and its batch job: the load under which the demo's recording was made.

    workload.py serve   --port 8080 --dir DIR   the service on the recorded machine
    workload.py request --url URL               its clients, on another machine
    workload.py batch   --dir DIR               the batch job beside the service

Demand rises and falls once in `PERIOD_SECONDS`; requests, cache, log and batch job follow it.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import math
import os
import random
import threading
import time
import urllib.request
import zlib
from pathlib import Path

PERIOD_SECONDS = 300.0
BATCH_AT, BATCH_SECONDS = 0.7, 20.0
MEGABYTE = 1 << 20


def demand(at: float) -> float:
    """Demand at a time in seconds, 0..1."""
    return 0.5 - 0.5 * math.cos(2.0 * math.pi * at / PERIOD_SECONDS)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request with some CPU work and 20 kB, and logs 8 kB."""

    log: Path

    def do_GET(self) -> None:
        body = hashlib.pbkdf2_hmac("sha256", b"request", b"salt", 60_000) * 640
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.log.open("ab") as log:
            log.write(os.urandom(8192))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def serve(port: int, folder: Path) -> None:
    """Serves requests; the cache of sessions grows and shrinks with demand."""
    Handler.log = folder / "service.log"
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 - its clients are elsewhere
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache: list[bytes] = []
    while True:
        wanted = int((150 + 700 * demand(time.time())) * random.gauss(1.0, 0.01))
        del cache[wanted:]
        cache.extend(os.urandom(4096) * (MEGABYTE // 4096) for _ in range(wanted - len(cache)))
        with Handler.log.open("ab") as log:
            os.fsync(log.fileno())
        if Handler.log.stat().st_size > 64 * MEGABYTE:
            Handler.log.unlink()
        time.sleep(1.0)


def request(url: str) -> None:
    """Sends requests at a rate that follows demand, whether the service answers or not."""

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=2.0) as response:
                response.read()
        except OSError:
            pass

    while True:
        threading.Thread(target=fetch, daemon=True).start()
        time.sleep(random.expovariate(4.0 + 26.0 * demand(time.time())))


def batch(folder: Path) -> None:
    """Once a period reads, compresses and writes for `BATCH_SECONDS`."""
    while True:
        if 0.0 <= time.time() % PERIOD_SECONDS - BATCH_AT * PERIOD_SECONDS < BATCH_SECONDS:
            data = random.randbytes(MEGABYTE) + bytes(MEGABYTE)
            with (folder / "batch.out").open("wb") as out:
                out.write(zlib.compress(data))
                os.fsync(out.fileno())
            time.sleep(0.1)
        else:
            time.sleep(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["serve", "request", "batch"])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--dir", type=Path, default=Path.cwd())
    parser.add_argument("--url", default="http://127.0.0.1:8080/")
    args = parser.parse_args()
    if args.part == "serve":
        serve(args.port, args.dir)
    elif args.part == "request":
        request(args.url)
    else:
        batch(args.dir)


if __name__ == "__main__":
    main()
