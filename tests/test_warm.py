"""A program in a warm process finds what it would find after a start of its own."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import warm

FACTS = """
import atexit, json, multiprocessing, os, signal, sys, tempfile
from dataclasses import dataclass

from seqbench.models.base import ModelConfig
from seqbench.registry import register


@register("model")
@dataclass
class Mine(ModelConfig):
    name: str = "facts"


def facts(**more):
    main = sys.modules["__main__"]
    named = ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
    return {
        "arguments": sys.argv, "folder": os.getcwd(), "first folder": multiprocessing.process.ORIGINAL_DIR,
        "places": sys.path, "environment": {**os.environ}, "name": __name__,
        "main": [str(getattr(main, "__file__", None)), str(getattr(main.__spec__, "name", None))],
        "signals": [shown(signal.getsignal(getattr(signal, name))) for name in named],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "temporary": tempfile.gettempdir(),
        "input": sys.stdin.read() if sys.stdin else None, "group": os.getpgrp() == os.getpgid(os.getppid()),
        **more,
    }


def shown(handler):
    return getattr(handler, "__name__", str(handler))


def tell(outbox):
    outbox.send(facts())


if __name__ == "__main__":
    atexit.register(lambda: print("the end"))
    from seqbench.isolate import warm_server

    os.environ["LATE"] = "1"
    context = warm_server()
    ours, theirs = context.Pipe()
    child = context.Process(target=tell, args=(theirs,))
    child.start()
    mine = facts(child=ours.recv())
    child.join()
    print(json.dumps(mine))
    print("told", file=sys.stderr)
    sys.exit(int(sys.argv[1]))
elif "--cfg" in sys.argv:
    print(json.dumps(facts()))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "facts.py").write_text(FACTS)
    return tmp_path


def found(done: subprocess.CompletedProcess[str]) -> dict:
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"arguments"')]
    facts = json.loads(line)
    facts.get("child", {"environment": {}})["environment"].pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch's
    return facts


@pytest.mark.slow
def test_a_file_and_its_child_find_what_they_would_find_cold(place, run_python):
    places = str(place / "more")
    cold, hot = (run_python("facts.py", "3", "a b", cold=cold, PYTHONPATH=places) for cold in (True, False))
    assert found(hot) == found(cold)
    assert found(hot)["arguments"] == ["facts.py", "3", "a b"]
    assert found(hot)["child"]["name"] == "__mp_main__"
    assert (hot.returncode, hot.stderr) == (cold.returncode, cold.stderr) == (3, "told\n")
    assert hot.stdout.endswith("}\nthe end\n")


@pytest.mark.slow
def test_a_module_finds_what_it_would_find_cold(place, run_python):
    words = ["-m", "seqbench", "--allow-code", "--cfg", "job", "model=facts.py:Mine"]
    cold, hot = (run_python(*words, cold=cold) for cold in (True, False))
    assert hot.returncode == cold.returncode == 0, hot.stderr
    assert found(hot) == found(cold)
    assert hot.stdout.partition("\n")[2] == cold.stdout.partition("\n")[2]


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("sys.exit('some words')", 1, "some words\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("os.kill(os.getpid(), 9)", -9, ""),
        ("os._exit(7)", 7, ""),
        ("pass", 0, ""),
    ],
)
def test_every_end_is_told(run_python, tmp_path, end, code, said):
    (tmp_path / "end.py").write_text(f"import os, sys\nprint('é', flush=True)\n{end}\n")
    done = run_python("end.py")
    assert (done.returncode, done.stdout) == (code, "é\n")
    assert done.stderr.endswith(said)
    assert bool(done.stderr) == bool(said)


def test_what_takes_too_long_is_killed(run_python, tmp_path):
    (tmp_path / "long.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("long.py", timeout=1)
    assert time.monotonic() - began < 30
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_what_a_start_itself_does_is_left_to_a_start():
    assert warm.can_run(["-m", "seqbench.report", "x"], ["PYTHONPATH", "HF_HOME"])
    assert warm.can_run(["mine.py"], [])
    assert not warm.can_run(["mine.py"], ["PYTHONHASHSEED"])
    for args in (["-c", "pass"], ["-I", "mine.py"], ["-m", "ruff"], ["-W", "error", "-m", "seqbench"]):
        assert not warm.can_run(args, [])
