"""``hydra/launcher=ray``: batches of runs as tasks of Ray, by its public interface.

With an address they go to an existing cluster. Without one a Ray of our own is started on this machine, which
listens on loopback alone, lets in whoever has a token that only its processes know, and is stopped at the
end. Every task has a fresh process. Ray retries nothing itself: the sweep sends again what is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

from seqbench import environment
from seqbench.errors import UsageError
from seqbench.isolate import STOP_SIGNALS
from seqbench.launch import on_worker
from seqbench.launch.base import Ended
from seqbench.launch.ray_settings import RayConf
from seqbench.secret import mask

_END_S = 30.0  # for what is at work: runs are recorded as interrupted
_REACH_S = 5.0  # for an answer of a cluster
_INTERRUPT_S = 0.25  # between looks whether Ray wants a task to end
_STORE_BYTES = 80 << 20  # the least that Ray takes; orders and answers are small
_LONGEST_FOLDER = 16  # a socket's path has 107 bytes at most, and Ray's part of it has up to 66
_NAMESPACE = "seqbench"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its makers
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # it prints how each worker died; the sweep says it shorter
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's name for not listening on every interface
_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_TOKEN_HINT = " that lets this process in (is its token in RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token?)"
_MIB = 1 << 20


def asks_gpus(node: Mapping[str, Any]) -> bool:
    """Whether a launcher node asks Ray for GPUs.

    >>> [asks_gpus(node) for node in ({"num_gpus": 0.25}, {"num_gpus": 0}, {})]
    [True, False, False]
    """
    return bool(node.get("num_gpus"))


def settings(node: Mapping[str, Any]) -> RayConf:
    """The settings in a launcher node.

    Raises:
        UsageError: a key is not known, or a value makes no sense.
    """
    known = {one.name for one in dataclasses.fields(RayConf)}
    for key in node:
        if key not in known:
            raise UsageError(f"hydra.launcher.{key}: not a setting of ray's: {', '.join(sorted(known))}")
    conf = RayConf(**node)
    wanted = {"num_cpus": conf.num_cpus, "num_gpus": conf.num_gpus, "memory_mib": conf.memory_mib}
    for key, value in {
        **wanted,
        **{f"resources.{name}": value for name, value in conf.resources.items()},
    }.items():
        if value is not None and not (_is_number(value) and 0 <= value < math.inf):
            raise UsageError(f"hydra.launcher.{key}={value}: expected a number of at least 0")
    if conf.num_gpus > 1 and conf.num_gpus != int(conf.num_gpus):
        raise UsageError(f"hydra.launcher.num_gpus={conf.num_gpus}: a fraction of one GPU, or a whole number")
    return conf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def engine(node: Mapping[str, Any]) -> Rays:
    """The engine for a launcher node; Ray is started, or asked, at the first batch.

    Raises:
        UsageError: a setting makes no sense, or Ray is not installed.
    """
    conf = settings(node)
    with _variables(_QUIET | ({} if conf.address else _LOOPBACK)):  # read when it is imported
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError("hydra/launcher=ray needs ray: pip install 'seqbench[ray]'") from error
    return Rays(conf, slots=1 if conf.num_gpus else max(1, int(conf.num_cpus)))


@dataclass
class Rays:
    """Batches as tasks of Ray.

    Attributes:
        do: what is done with an order on a worker.
    """

    conf: RayConf
    do: Callable[[bytes], str] = on_worker.do
    slots: int = 1
    name: str = "ray"
    remote: bool = True
    by_seed: bool = True
    _open: dict[Any, int] = field(default_factory=dict)  # batches by the reference to what they will tell
    _up: contextlib.ExitStack | None = None

    def submit(self, orders: Mapping[int, bytes]) -> None:
        """Hand over batches; they start as nodes have room.

        Raises:
            UsageError: Ray cannot be reached or started, or none of its nodes will ever have room.
        """
        import ray

        if self._up is None:
            self._up = self._started()
        conf = self.conf
        task = ray.remote(
            num_cpus=conf.num_cpus,
            num_gpus=conf.num_gpus,
            memory=conf.memory_mib and conf.memory_mib * _MIB,
            resources=conf.resources or None,
            max_calls=1,
            max_retries=0,
        )(done)
        for number, order in orders.items():
            self._open[task.remote(self.do, order)] = number

    def _started(self) -> contextlib.ExitStack:
        """Connect to a Ray that has room; what is given back ends that again."""
        import ray

        with contextlib.ExitStack() as stack:
            address = self.conf.address
            options = {"address": _reachable(address)} if address else self._local(stack)
            with _own_signals():
                try:
                    ray.init(
                        namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options
                    )
                except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
                    where = f"at {address}{_TOKEN_HINT}" if address else "could be started"
                    raise UsageError(f"hydra/launcher=ray: no Ray {where}: {_one_line(error)}") from error
            stack.callback(ray.shutdown)
            self._check_room(ray.nodes())
            return stack.pop_all()

    def _local(self, stack: contextlib.ExitStack) -> dict[str, Any]:
        """How to start a Ray of our own."""
        variables = _QUIET | _LOOPBACK
        if _MODE not in os.environ and _TOKEN not in os.environ:
            variables[_TOKEN] = secrets.token_hex(32)
        stack.enter_context(_variables(variables))
        place = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_FOLDER else "/tmp"
        folder = tempfile.mkdtemp(
            prefix="seqbench-ray-", dir=place
        )  # closed to others; Ray opens its own below
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return {
            "address": "local",
            "num_cpus": environment.cores(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": os.path.join(folder, "r"),
        }

    def _check_room(self, nodes: list[dict[str, Any]]) -> None:
        """Refuse what would wait for ever.

        Raises:
            UsageError: no node has what a batch asks for.
        """
        conf = self.conf
        asked = {"CPU": conf.num_cpus, "GPU": conf.num_gpus, **conf.resources}
        asked["memory"] = (conf.memory_mib or 0) * _MIB
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        if not any(all(node.get(name, 0) >= some for name, some in asked.items()) for node in alive):
            wanted = ", ".join(f"{name} {_amount(name, some)}" for name, some in asked.items() if some)
            there = "; ".join(
                ", ".join(
                    f"{name} {_amount(name, node.get(name, 0))}" for name, some in asked.items() if some
                )
                for node in alive
            )
            raise UsageError(f"hydra/launcher=ray: a batch asks for {wanted}, and no node has that: {there}")

    def poll(self, patience_s: float) -> list[Ended]:
        """The batches that ended since the last call."""
        import ray

        if not self._open:
            time.sleep(patience_s)
            return []
        first, _ = ray.wait(list(self._open), timeout=patience_s)
        if not first:
            return []
        ready, _ = ray.wait(list(self._open), num_returns=len(self._open), timeout=0)
        return [self._ended(reference) for reference in ready]

    def _ended(self, reference: Any) -> Ended:
        """What a batch told, or why it could not."""
        import ray

        number = self._open.pop(reference)
        try:
            return Ended(number, told=ray.get(reference))
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None) or error
            return Ended(number, lost=mask(f"{type(cause).__name__}: {_one_line(cause)}"))
        except ray.exceptions.RayError as error:  # its worker, its node, or memory
            return Ended(number, lost=mask(f"Ray: {_one_line(error)}"))

    def close(self) -> None:
        """Cancel what has not ended, wait for its end, and stop a Ray of our own."""
        if self._up is None:
            return
        import ray

        left = list(self._open)
        self._open = {}
        for force in (False, True):
            if left:
                for reference in left:
                    ray.cancel(reference, force=force)
                _, left = ray.wait(left, num_returns=len(left), timeout=_END_S)
        self._up.close()
        self._up = None


def done(do: Callable[[bytes], str], order: bytes) -> str:
    """Do an order on a worker of Ray's, so that Ray can end it.

    Ray asks a task to end by an interrupt of the interpreter, which a process that waits for another one does
    not notice: so another thread waits.
    """
    with futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(do, order)
        try:
            while not future.done():
                futures.wait([future], timeout=_INTERRUPT_S)
        except KeyboardInterrupt:
            on_worker.stop()
            raise
        return future.result()


def _reachable(address: str) -> str:
    """The address of a cluster, once something answers there: Ray would try for minutes, and say much.

    Raises:
        UsageError: nothing does, or it is no address.
    """
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return address
    if not (colon and host and port.isdigit()) or "/" in host:
        raise UsageError(f"hydra.launcher.address={address}: expected HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"hydra/launcher=ray: no Ray at {address}: {error}") from error
    return address


def _amount(name: str, value: float) -> str:
    return f"{value / _MIB:.0f} MiB" if name == "memory" else f"{value:g}"


def _one_line(error: BaseException) -> str:
    """The first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(" Check python-core-worker")[0] if lines else type(error).__name__


@contextlib.contextmanager
def _variables(some: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while; Ray's authentication, which it settles itself, is as before afterwards."""
    before = {name: os.environ.get(name) for name in (*some, _MODE)}
    os.environ.update(some)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's way of ending: Ray would put its own in place."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
