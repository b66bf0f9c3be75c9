"""Exit code 0 when the server in this container says that it is ready; it says why when it is not.

A bare socket, with nothing installed: importing an HTTP client would take longer than the question.
"""

import os
import socket
import sys

host = os.environ.get("EYESPOT_HOST") or "127.0.0.1"
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
port = os.environ.get("EYESPOT_PORT") or "8000"
port = "8000" if "://" in port else port  # Kubernetes' word about a Service of that name, as in settings.py
try:
    with socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(b"GET /readyz?verbose HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
except OSError as error:
    sys.exit(f"no answer from {host}:{port}: {error}")
status_line, *_, body = answer.split("\r\n")
if status_line.split(" ")[1:2] != ["200"]:
    sys.exit(f"{status_line} {body}")
