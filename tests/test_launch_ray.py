"""The Ray engine without Ray: settings and refusals; tests/launchers has a real one."""

from __future__ import annotations

import _thread
import os
import signal
import socket
import sys
import threading
import time

import pytest

from seqbench.errors import UsageError
from seqbench.launch import on_worker, rays
from seqbench.launch.ray_settings import RayConf
from seqbench.launch.rays import Rays, settings

NODE = {"_target_": "seqbench.launch.rays", "address": None, "num_cpus": 1.0, "num_gpus": 0.0}


def test_a_launcher_node_becomes_settings_and_unknown_keys_are_named():
    assert settings({**NODE, "num_gpus": 0.25, "resources": {"licence": 1}}) == RayConf(
        num_gpus=0.25, resources={"licence": 1}
    )
    with pytest.raises(UsageError, match=r"^hydra\.launcher\.n_jobs: not a setting of ray's: .*num_cpus"):
        settings({**NODE, "n_jobs": 2})


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"num_cpus": -1}, "num_cpus=-1: expected a number of at least 0"),
        ({"num_cpus": "two"}, "num_cpus=two: "),
        ({"num_gpus": True}, "num_gpus=True: "),
        ({"num_gpus": float("inf")}, "num_gpus=inf: "),
        ({"num_gpus": 1.5}, "num_gpus=1.5: a fraction of one GPU, or a whole number"),
        ({"memory_mib": -1}, "memory_mib=-1: "),
        ({"resources": {"licence": "x"}}, r"resources\.licence=x: "),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(node, words):
    with pytest.raises(UsageError, match=rf"^hydra\.launcher\.{words}"):
        settings({**NODE, **node})


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs ray: pip install 'seqbench\[ray\]'"):
        rays.engine(NODE)
    assert "RAY_DEDUP_LOGS_SKIP_REGEX" not in os.environ


@pytest.mark.parametrize(
    ("node", "slots"),
    [({}, 1), ({"num_cpus": 3.5}, 3), ({"num_cpus": 0}, 1), ({"num_cpus": 4, "num_gpus": 0.5}, 1)],
)
def test_a_batch_has_as_many_runs_at_once_as_cores_but_one_on_a_gpu(monkeypatch, node, slots):
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    assert rays.engine({**NODE, **node}).slots == slots


def node(alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": alive, "Resources": {"CPU": 2.0, "memory": float(1 << 30), **resources}}


def test_what_a_batch_asks_for_has_to_be_on_one_node_that_is_alive():
    asks = Rays(RayConf(num_cpus=2, num_gpus=0.5))
    asks._check_room([node(), node(GPU=1.0)])
    for nodes in ([node()], [node(), node(alive=False, GPU=1.0)], [node(CPU=1.0, GPU=4.0), node()], []):
        with pytest.raises(
            UsageError, match=r"^hydra/launcher=ray: a batch asks for CPU 2, GPU 0\.5, and no node"
        ):
            asks._check_room(nodes)
    with pytest.raises(
        UsageError, match="a batch asks for CPU 1, memory 2048 MiB, .*: CPU 2, memory 1024 MiB$"
    ):
        Rays(RayConf(memory_mib=2048))._check_room([node()])


@pytest.mark.parametrize("address", ["here", "host:", ":6379", "ray://host:10001", "host:port", "a/b:1"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(UsageError, match=r"^hydra\.launcher\.address=.*: expected HOST:PORT or auto$"):
        rays._reachable(address)


def test_an_address_where_nothing_answers_is_refused_at_once():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{one.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"^hydra/launcher=ray: no Ray at {closed}: "):
            rays._reachable(closed)
        one.listen()
        assert rays._reachable(closed) == closed
    assert rays._reachable("auto") == "auto"


def test_a_task_hears_that_ray_wants_it_to_end_while_another_process_is_at_work(monkeypatch):
    """Ray interrupts the interpreter alone, and no system call returns for that."""
    stopped = threading.Event()
    monkeypatch.setattr(on_worker, "stop", stopped.set)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def works(_order: bytes) -> str:
        assert stopped.wait(20)
        raise on_worker.WorkerFailed("exit code 1")

    began = time.monotonic()
    threading.Timer(0.3, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            rays.done(works, b"")
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10


def test_a_task_gives_back_what_was_told_or_what_went_wrong():
    assert rays.done(bytes.decode, b"fine") == "fine"
    with pytest.raises(UnicodeDecodeError):
        rays.done(bytes.decode, b"\xff")


def test_variables_are_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("ONE", "1")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with rays._variables({"ONE": "2", "TWO": "2"}):
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray does
        assert (os.environ["ONE"], os.environ["TWO"]) == ("2", "2")
    assert os.environ["ONE"] == "1"
    assert not {"TWO", "RAY_AUTH_MODE"} & set(os.environ)
