"""A program that gives orders to the Ray engine: python -m launchers.drive_ray SETTINGS ORDER...

Prints each end as a line of JSON, then ends what is left when its input does; a refusal is such a line too.
"""

from __future__ import annotations

import dataclasses
import json
import select
import signal
import sys

from launchers import trivial
from seqbench.errors import UsageError
from seqbench.launch import rays

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tell(what: dict[str, object]) -> None:
    """Say something to the test."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(settings: str, *orders: str) -> None:
    """Hand over the orders and tell what becomes of them until the input ends."""
    before = [signal.getsignal(number) for number in SIGNALS]
    engine = rays.engine(json.loads(settings))
    engine.do = trivial.do
    try:
        engine.submit({number: order.encode() for number, order in enumerate(orders)})
        assert [signal.getsignal(number) for number in SIGNALS] == before, "Ray's own handlers are in place"
        while not select.select([sys.stdin], [], [], 0)[0]:
            for ended in engine.poll(0.2):
                tell(dataclasses.asdict(ended))
    except UsageError as error:
        tell({"refused": str(error)})
    finally:
        engine.close()
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
