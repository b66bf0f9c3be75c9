"""Clients that must all be answered or refused, with nothing installed; exit code 1 when one was lost.

python3 load.py knock PORT        six clients, each time on a new connection, until the port is closed
python3 load.py flood PORT FILE   300 uploads of the file, but for a byte, which follows when all have got so far
"""

import http.client
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable

TOGETHER = {"knock": 6, "flood": 300}
seen: Counter[str] = Counter()


def knock(port: int) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/livez")
            count(connection.getresponse().status)
        except ConnectionRefusedError:
            return
        except (OSError, http.client.HTTPException):
            seen["lost"] += 1
        finally:
            connection.close()


def flood(port: int, data: bytes, everybody: threading.Barrier) -> None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            head = (
                f"PUT /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            connection.sendall(head.encode() + data[:-1])
            everybody.wait(60)
            connection.sendall(data[-1:])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            count(answer.status)
    except (OSError, http.client.HTTPException, threading.BrokenBarrierError):
        seen["lost"] += 1


def count(status: int) -> None:
    seen[{200: "answered", 503: "refused"}.get(status, "lost")] += 1


def main(what: str, port: str, *file: str) -> None:
    clients: Callable[..., None] = {"knock": knock, "flood": flood}[what]
    arguments: list[object] = [int(port)]
    if file:
        with open(file[0], "rb") as opened:
            arguments += [opened.read(), threading.Barrier(TOGETHER[what])]
    threads = [threading.Thread(target=clients, args=arguments) for _ in range(TOGETHER[what])]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    print(f"{seen['answered']} answered, {seen['refused']} refused, {seen['lost']} lost")
    sys.exit(seen["lost"] > 0)


main(*sys.argv[1:])
