"""Load on a prediction service: `python load.py http://127.0.0.1:8700 --clients 100 --seconds 60`. Prints requests per second, errors and latencies.

Each client keeps one connection and asks for the next prediction when it has the last. The bodies are made once; answers are read and the status is
counted. Needs the token in $MLIPFM_REGISTRY_TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import time

import numpy as np


def body(atoms: int, seed: int, elements: list[int]) -> bytes:
    """A drop of atoms on a jittered grid 2 Å apart."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(atoms ** (1 / 3)))
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)[:atoms] * 2.0 + rng.normal(0, 0.1, (atoms, 3))
    return json.dumps({"numbers": rng.choice(elements, atoms).tolist(), "positions": np.round(places, 6).tolist()}).encode()


async def client(
    host: str, port: int, bodies: list[bytes], head: str, until: float, statuses: collections.Counter[int], taken: list[float]
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    k = 0
    while time.monotonic() < until:
        data = bodies[k % len(bodies)]
        k += 1
        start = time.monotonic()
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        headers = await reader.readuntil(b"\r\n\r\n")
        length = int(headers.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        taken.append(time.monotonic() - start)
        statuses[int(headers[9:12])] += 1
    writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--atoms", type=int, default=20)
    parser.add_argument("--elements", default="1,6,8", help="atomic numbers")
    given = parser.parse_args()
    host, _, port = given.address.removeprefix("http://").partition(":")
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {os.environ['MLIPFM_REGISTRY_TOKEN']}\r\n"
    bodies = [body(given.atoms, k, [int(z) for z in given.elements.split(",")]) for k in range(32)]
    statuses, taken = collections.Counter(), []
    until = time.monotonic() + given.seconds
    await asyncio.gather(*(client(host, int(port), bodies, head, until, statuses, taken) for _ in range(given.clients)))
    median, p99 = np.percentile(taken, [50, 99])
    rate = len(taken) / given.seconds
    print(f"{given.clients} clients, {given.seconds:g} s, {given.atoms} atoms: {rate:.0f} requests/s, statuses {dict(statuses)}")
    print(f"median {median:.3f} s, p99 {p99:.3f} s")


if __name__ == "__main__":
    asyncio.run(main())
