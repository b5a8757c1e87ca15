"""Make requests for some seconds, then fetch the profile of a worker while they go on.

Run:  python load.py [--address 127.0.0.1:8000] [--seconds 5]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import threading
from pathlib import Path

CLIENTS = 4


def be_a_client(address: str, first: int, done: threading.Event) -> None:
    for number in itertools.count(first):
        if done.is_set():
            return
        path = "/" if number % 2 else f"/words/{number}"
        path = {39: "/slow", 59: "/blocking"}.get(number % 60, path)
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
        answer.read()
        connection.close()


def fetch_profile() -> Path:
    """Ask the first worker that answers for two seconds of its time."""
    for path in sorted(Path("run").glob("*.address")):
        connection = http.client.HTTPConnection(path.read_text(), timeout=60)
        try:
            connection.request("GET", "/debug/pprof/profile?seconds=2")
            answer = connection.getresponse()
        except ConnectionRefusedError:
            continue  # left behind by a worker that was killed
        file = Path(f"worker-{path.stem}.pb.gz")
        file.write_bytes(answer.read())
        return file
    raise SystemExit("no worker has an endpoint in run/; is gunicorn running?")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--address", default="127.0.0.1:8000", help="of the service (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load before (%(default)s)")
    options = parser.parse_args()
    done = threading.Event()
    # What is slow is not asked for by all of them at once: all workers would wait for it.
    clients = [
        threading.Thread(target=be_a_client, args=(options.address, first, done))
        for first in range(0, 60, 60 // CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        done.wait(options.seconds)
        file = fetch_profile()
    finally:
        done.set()
        for client in clients:
            client.join()
    print(f"Two seconds of a worker: {file.resolve()}")
    print(f"  go tool pprof -top {file}")
    print(f"Profiles of both workers and of slow requests: {Path('profiles').resolve()}")
    for path in sorted(Path("profiles").glob("*.pb.gz")):
        print(f"  {path.name}")


if __name__ == "__main__":
    main()
