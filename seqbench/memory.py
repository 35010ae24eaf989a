"""Memory of this process: resident size, its peak, and giving freed blocks back before measuring."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_LIMIT = resource.RLIMIT_DATA


class PeakMeter:
    """Peak memory from its creation on: resident bytes above the start on CPU, allocated bytes on CUDA.

    Freed blocks are returned to the kernel first, so that what ran before does not count. Where the kernel
    cannot reset the peak (not Linux), an earlier, higher peak hides the later one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            if platform.libc_ver()[0] == "glibc":
                ctypes.CDLL(None).malloc_trim(0)
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.start_bytes = peak_bytes()

    def bytes(self) -> int:
        """Peak since the start, in bytes."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return max(0, peak_bytes() - self.start_bytes)


def data_bytes() -> int:
    """Private memory that this process may write to now, in bytes: what the kernel's limit on it counts."""
    return _status_bytes("VmData")


def _status_bytes(field: str) -> int:
    fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    return int(fields[field].split()[0]) * 1024


def peak_bytes() -> int:
    """Largest resident size of this process since its start (or the last reset), in bytes."""
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def limit_memory(mib: float, device: torch.device) -> None:
    """Let this process take at most ``mib`` MiB more than it has now; more raises an out-of-memory error."""
    more = int(mib * 2**20)
    if device.type == "cuda":
        share = more / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
        return
    _, hard = resource.getrlimit(_LIMIT)
    resource.setrlimit(_LIMIT, (data_bytes() + more, hard))


def lift_memory_limit() -> None:
    """Let what is left to do (the record, that is) take what it needs."""
    _, hard = resource.getrlimit(_LIMIT)
    resource.setrlimit(_LIMIT, (hard, hard))
