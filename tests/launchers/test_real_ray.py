"""The Ray engine on a real local Ray: lost workers, refusals, and the end."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.watch import children, parents, processes, python_path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: make launchers"
)
Drive = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """Start a program that hands orders to the engine (see drive_ray.py); it has ended afterwards."""
    started = []
    env = {**os.environ, "PYTHONPATH": python_path(), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}

    def start(*orders: str, **node: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "launchers.drive_ray", json.dumps(node), *orders]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(driver: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """The next things that the program tells, by number."""
    found = [json.loads(driver.stdout.readline()) for _ in range(count)]
    return sorted(found, key=lambda one: one["number"])


def finish(driver: subprocess.Popen[str]) -> None:
    """Let the program close its engine; nothing of it may stay, nor anything be printed besides."""
    started = children(driver.pid)
    assert driver.communicate(timeout=60) == ("", "")
    assert driver.returncode == 0
    deadline = time.monotonic() + 20  # Ray does not wait for idle workers that it has told to end
    while left := {one: line for one, line in processes("").items() if one in started}:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def until_asleep(seconds: int) -> int:
    deadline = time.monotonic() + 60
    while not (found := processes(f"sleep {seconds}.0")):
        assert time.monotonic() < deadline, "no worker began"
        time.sleep(0.1)
    return next(iter(found))


def test_a_worker_killed_from_outside_loses_its_batch_and_no_other(drive, tmp_path):
    before = set(Path("/tmp").glob("seqbench-ray-*"))
    driver = drive("say", "fail", "sleep 301", "sleep 1", "say")
    said, failed, slept, again = told(driver, 4)
    assert [one["told"] for one in (said, failed, slept, again)] == ["say 0", "", "sleep 0", "say 0"]
    assert failed["lost"] == "ValueError: no such thing"
    worker = parents()[until_asleep(301)]
    assert processes("ray::")[worker]
    os.kill(worker, signal.SIGKILL)
    [lost] = told(driver, 1)
    assert (lost["number"], lost["told"]) == (2, "")
    assert lost["lost"] == "Ray: The worker died unexpectedly while executing this task."
    finish(driver)
    assert set(Path("/tmp").glob("seqbench-ray-*")) <= before
    assert not list(tmp_path.iterdir()), "nor anything in its home"


def test_close_ends_what_runs_and_what_waits(drive):
    driver = drive(*["sleep 302"] * 40)
    until_asleep(302)
    finish(driver)
    assert not processes("sleep 302.0")


def test_ray_listens_on_loopback_alone_and_asks_for_a_token(drive):
    driver = drive("sleep 303")
    until_asleep(303)
    listening = subprocess.run(
        ["ss", "-lntpH"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ours = [line for line in listening if any(f"pid={one}," in line for one in children(driver.pid))]
    assert ours
    assert not [line for line in ours if "127.0.0.1" not in line.split()[3]]
    [raylet] = [one for one in children(driver.pid) if "raylet/raylet" in processes("raylet").get(one, "")]
    assert b"RAY_AUTH_MODE=token" in Path(f"/proc/{raylet}/environ").read_bytes()
    finish(driver)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"num_gpus": 9}, "a batch asks for CPU 1, GPU 9, and no node has that: CPU"),
        ({"num_cpus": 9999, "memory_mib": 1 << 40}, "a batch asks for CPU 9999, memory 1099511627776 MiB"),
        ({"resources": {"licence": 1}}, "licence 1, and no node has that"),
        ({"address": "127.0.0.1:1"}, "no Ray at 127.0.0.1:1: "),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line_before_anything_waits_for_it(drive, node, words):
    driver = drive("say", **node)
    refused = json.loads(driver.stdout.readline())["refused"]
    assert refused.startswith("hydra/launcher=ray: ")
    assert words in refused
    assert "\n" not in refused
    finish(driver)
