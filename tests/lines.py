"""A line to a database server that can fall silent: it takes what is sent, and passes nothing on."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from sqlalchemy import make_url


class Line:
    """Passes connections on to a server until it falls silent; connections made after that work."""

    def __init__(self, server: str) -> None:
        """server: URL of a database"""
        self._server = make_url(server)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        self.after: int | None = None  # bytes from the server after which every connection falls silent
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """URL of the same database through this line."""
        port = self._listener.getsockname()[1]
        through = self._server.set(host="127.0.0.1", port=port)
        return through.difference_update_query(["host", "unix_socket"]).render_as_string(hide_password=False)

    def fall_silent(self) -> None:
        """Passes nothing on any more for the connections there are."""
        self._silent.update(end for pair in self._pairs for end in pair)

    def close(self) -> None:
        """Ends all connections, and takes no more."""
        self._listener.close()
        self.end()

    def end(self) -> None:
        """Ends all connections."""
        for end in (end for pair in self._pairs for end in pair):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _connected(self) -> socket.socket:
        query, is_postgres = self._server.query, self._server.get_backend_name() == "postgresql"
        if folder := query.get("host") or query.get("unix_socket"):
            end = socket.socket(socket.AF_UNIX)
            end.connect(f"{folder}/.s.PGSQL.5432" if is_postgres else str(folder))
            return end
        return socket.create_connection((str(self._server.host), self._server.port or (5432 if is_postgres else 3306)))

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = self._connected()
                self._pairs.append((client, server))
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(8192):
                passed += len(data)
                if is_answer and self.after is not None and passed > self.after:
                    self._silent.add(source)
                if source not in self._silent and target not in self._silent:
                    target.sendall(data)
