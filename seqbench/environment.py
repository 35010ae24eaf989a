"""Where a run took place: machine, versions, threads, and what was set to make it quick."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import math
import os
import platform
import re
import signal
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import seqbench

_PACKAGES = ("torch", "numpy", "hydra-core", "pandas", "datasets", "pyarrow")
_NOT_RESULTS = (
    "report/", "hooks.py", "stats/", "display.py", "help.py", "cli.py", "overrides.py", "guard.py",
    "secret.py", "sweep.py", "locks.py", "check.py", "optional.py", "new.py", "userfile.py",
    "compare/", "adapters/", "perf/", "launch/", "collect.py", "collected.py", "pilot.py", "budget.py",
    "forecast.py", "earlier.py", "pace.py", "outlook.py",
)  # fmt: skip
_VECTOR_FLAGS = re.compile(r"(avx|sse|fma|amx|neon|asimd|sve)[\w.]*")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks instead of returning them to the kernel.

    Page faults are a third of a CPU training step otherwise. Returns whether both settings took effect;
    other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def vendor() -> str:
    """Who made the processor, in its own word, such as GenuineIntel; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def instruction_set() -> str:
    """Vector instructions that decide which kernels run, and so the last bits of a result."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    found = sorted(word for word in flags.split() if _VECTOR_FLAGS.fullmatch(word))
    wanted = [os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")]
    return " ".join([platform.machine(), *found, *filter(None, wanted)])


def busy_core_s() -> float | None:
    """Seconds that all cores of the machine together have been busy since it started; None if not known."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, fields[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def cache_root() -> Path:
    """The user's cache folder of seqbench."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "seqbench"


def cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its control group's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota())))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The cores that the control group may use (of a container, say); infinite where there is no limit."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        else:
            of_v1 = (root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            quota, period = (path.read_text(encoding="ascii").strip() for path in of_v1)
        return float(quota) / float(period) if float(quota) > 0 else math.inf  # -1, or the word max: none
    except (OSError, ValueError):
        return math.inf


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)


@cache
def code_sha256() -> str:
    """Fingerprint of the source that decides results, so that a code change is a new identity."""
    digest = hashlib.sha256()
    root = Path(seqbench.__file__).parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.c")]):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_NOT_RESULTS):
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def plugin_sha256(cls: type) -> str | None:
    """Fingerprint of the source around a user's own class; None for seqbench's own.

    Covers the whole package of an installed plugin, and every Python file beside a single file, since
    either may hold the layers that the class builds.
    """
    source = inspect.getsourcefile(cls)
    if source is None or Path(source).is_relative_to(Path(seqbench.__file__).parent):
        return None
    package = sys.modules.get(cls.__module__.partition(".")[0]) if "." in cls.__module__ else None
    roots = [Path(root) for root in getattr(package, "__path__", [])]
    files = [path for root in roots for path in root.rglob("*.py")] or Path(source).parent.glob("*.py")
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.is_file() and not path.name.startswith("."):  # editors leave links and copies behind
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def forget_sources() -> None:
    """Look at the sources anew at the next call: they may have been edited since."""
    code_sha256.cache_clear()
    plugin_sha256.cache_clear()


@cache
def versions() -> dict[str, str]:
    """Versions of what decides the numbers; reads package metadata, imports nothing."""
    found = {"python": platform.python_version(), "seqbench": seqbench.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(code: str) -> dict[str, Any]:
    """The part of the environment that needs no torch; ``code`` is the fingerprint taken when planning."""
    return {
        "versions": versions(),
        "code_sha256": code,
        "platform": f"{platform.system()} {platform.machine()}",
        "python_implementation": sys.implementation.name,
        "cpu": cpu_model(),
        "cores": cores(),
    }
