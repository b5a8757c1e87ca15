"""A threaded web application under load: Flask, waitress, SQLite.

Run:  pip install flask waitress && python examples/web_app.py

One route is slow in two ways that are common in real life: it asks the database once per row, and
it sorts in Python what the database could have sorted. The profile shows both.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import urllib.request
from pathlib import Path

import rprof
import waitress
from flask import Flask, jsonify

CUSTOMERS = 150
ROUNDS_PER_CLIENT = 9
CLIENTS = 4


def create_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table customer (id integer primary key, name text)")
        connection.execute("create table purchase (customer integer, cents integer)")
        connection.execute("create index by_customer on purchase (customer)")
        rows = [(number, f"customer {number}") for number in range(CUSTOMERS)]
        connection.executemany("insert into customer values (?, ?)", rows)
        purchases = [(number % CUSTOMERS, number * 7919 % 10_000) for number in range(20_000)]
        connection.executemany("insert into purchase values (?, ?)", purchases)


def create_app(path: Path) -> Flask:
    app = Flask(__name__)

    @app.get("/fast")
    def fast():
        return jsonify(ok=True)

    @app.get("/report")
    def report():
        with sqlite3.connect(path) as connection:
            return jsonify(rank(load_customers(connection))[:10])

    return app


def load_customers(connection: sqlite3.Connection) -> list[dict]:
    """Ask once for the customers, and then once more for each of them."""
    customers = []
    for number, name in connection.execute("select id, name from customer"):
        query = "select cents from purchase where customer = ?"
        purchases = [cents for (cents,) in connection.execute(query, (number,))]
        customers.append({"name": name, "purchases": purchases})
    return customers


def rank(customers: list[dict]) -> list[dict]:
    """Sort in Python, adding everything up anew for each comparison."""
    ranked: list[dict] = []
    for customer in customers:
        place = 0
        while place < len(ranked) and total(ranked[place]) > total(customer):
            place += 1
        ranked.insert(place, customer)
    return ranked


def total(customer: dict) -> int:
    whole = 0
    for cents in customer["purchases"]:
        if cents > 100:
            whole += cents
    return whole


def be_a_client(port: int) -> None:
    for _ in range(ROUNDS_PER_CLIENT):
        for route in ("fast", "fast", "report"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{route}", timeout=60) as answer:
                answer.read()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "shop.sqlite"
        create_database(database)
        server = waitress.create_server(
            create_app(database), host="127.0.0.1", port=0, threads=2 * CLIENTS
        )
        threading.Thread(target=server.run, name="server", daemon=True).start()

        print(f"{CLIENTS} clients ask for a fast and a slow route ...\n", flush=True)
        rprof.start("rprof/")
        clients = [
            threading.Thread(target=be_a_client, args=(server.effective_port,), name="client")
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        profile = rprof.stop()
        server.close()

    print("Heaviest functions by CPU time")
    print(profile.top(8, by="cpu"))
    print("\nWhere it comes from")
    print(profile.tree(by="cpu", min_fraction=0.05))
    print(f"The profile is in {rprof.status().files[-1]}")


if __name__ == "__main__":
    main()
