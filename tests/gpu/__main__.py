"""Run the tests that need a GPU, then the measurements, and write what came out: ``make gpu``.

Needs an interpreter with torch and numpy; pytest for the tests. What is not there is said and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import torch

from gpu import measure, record
from seqbench import environment, locks

HERE = Path(__file__).resolve().parent
_SWEEP = ("-m", "seqbench", "-m", "experiment=speed", "device=cuda")
_NEEDED = (
    "hydra",
    "omegaconf",
    "pandas",
    "pyarrow",
    "matplotlib",
    "seaborn",
    "scipy",
    "jinja2",
    "rich",
    "sklearn",
)


def main(argv: list[str] | None = None) -> int:
    """Exit with 0 when all ran, 1 when a test or a measurement failed, 3 without a GPU."""
    options = parsed(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    if device.type == "cpu" and not options.cpu:
        say(f"torch {torch.__version__} finds no CUDA device here: nothing was tested or measured.")
        return 3
    torch.set_num_threads(1)  # as in a run
    folder = options.out / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder.mkdir(parents=True)
    found: dict[str, Any] = {"environment": facts(device), "tests": {}, "sections": [], "left_out": []}
    if not options.no_tests:
        found["tests"] = tests(folder, found["left_out"])
    chosen = options.sections or list(measure.SECTIONS)
    with locks.alone():
        for name in chosen:
            say(f"measuring: {name}")
            found["sections"].append(measure.plain(measure.SECTIONS[name](device, options.cpu)))
            record.write(folder, found)  # after each, so that a fault later on loses nothing
    if options.sweep:
        sweep(found)
    record.write(folder, found)
    say(record.markdown(found))
    say(f"written: {folder}/gpu.json and gpu.md")
    return int(failed(found))


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for the record")
    parser.add_argument("--sections", nargs="*", choices=measure.SECTIONS, help="measure these alone")
    parser.add_argument("--no-tests", action="store_true", help="measure alone")
    parser.add_argument("--sweep", action="store_true", help="also run experiment=speed and make its page")
    parser.add_argument(
        "--cpu", action="store_true", help="try the measuring itself out on a CPU, tiny sizes"
    )
    return parser.parse_args(argv)


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201


def facts(device: torch.device) -> dict[str, Any]:
    """Card, driver and versions."""
    found: dict[str, Any] = {
        "device": device.type, "python": platform.python_version(), "torch": torch.__version__,
        "cpu": environment.cpu_model(), "code_sha256": environment.code_sha256(),
        "time_utc": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }  # fmt: skip
    if device.type != "cuda":
        return found
    card = torch.cuda.get_device_properties(device)
    return found | {
        "card": card.name, "compute_capability": f"{card.major}.{card.minor}",
        "memory_gib": card.total_memory / 2**30, "multiprocessors": card.multi_processor_count,
        "driver": driver(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "float32_products": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }  # fmt: skip


def driver() -> str:
    """The driver's version, by nvidia-smi."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known ({type(error).__name__})"
    return told.split("\n", 1)[0].strip()


def tests(folder: Path, left_out: list[str]) -> dict[str, Any]:
    """Run the tests marked ``gpu`` in a process of their own: counts by outcome, names of failures."""
    if importlib.util.find_spec("pytest") is None:
        left_out.append("tests: pytest is not installed for this interpreter")
        return {}
    result = folder / "tests.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(HERE / "pytest.ini"),
        str(HERE),
        f"--junitxml={result}",
    ]
    say("running the tests")
    code = subprocess.run([*command, "-q"], check=False).returncode
    if not result.exists():
        left_out.append(f"tests: pytest ended with {code} and left no result")
        return {"exit_code": code}
    return {"exit_code": code, **counted(result)}


def counted(result: Path) -> dict[str, Any]:
    """Outcomes of a JUnit file that pytest has just written."""
    cases = list(ET.parse(result).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(bad) - skipped, "failed": len(bad), "skipped": skipped,
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in bad],
    }  # fmt: skip


def sweep(found: dict[str, Any]) -> None:
    """Times over lengths and batch sizes as a sweep of its own, with a page below reports/."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        found["left_out"].append(
            f"experiment=speed: not installed for this interpreter: {', '.join(missing)}"
        )
        return
    found["sweep"] = {"command": " ".join(["python", *_SWEEP])}
    found["sweep"]["exit_code"] = subprocess.run([sys.executable, *_SWEEP], check=False).returncode


def failed(found: dict[str, Any]) -> bool:
    """Whether a test, a measurement or the sweep went wrong."""
    codes = [found[name].get("exit_code", 0) for name in ("tests", "sweep") if name in found]
    return any(codes) or any(section["missed"] for section in found["sections"])


if __name__ == "__main__":
    sys.exit(main())
