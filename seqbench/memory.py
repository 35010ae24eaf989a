"""Memory of this process: its peak, what autograd keeps of a forward pass, what is free, and limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

_STATUS = Path("/proc/self/status")
_FREE = Path("/proc/meminfo")
_LIMIT = resource.RLIMIT_DATA
_OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "bad_alloc", "bad allocation")


class PeakMeter:
    """Peak memory from its creation on, above what stood then: resident bytes on CPU, allocated on CUDA.

    Freed blocks are returned to the kernel first, so that what ran before does not count. Where the kernel
    cannot reset the peak (not Linux), an earlier, higher peak hides the later one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start_bytes = torch.cuda.memory_allocated(device)
        else:
            if platform.libc_ver()[0] == "glibc":
                ctypes.CDLL(None).malloc_trim(0)
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self.start_bytes = peak_bytes()

    def bytes(self) -> int:
        """Peak since the start, in bytes."""
        on_cuda = self.device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self.device) if on_cuda else peak_bytes()
        return max(0, now - self.start_bytes)


class _Kept:
    """What autograd holds instead of a tensor that it saves: gone when autograd no longer needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an output itself would hold its own graph for ever


def saved_bytes(compute: Callable[[], object], known: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass of ``compute``: its saved activations, exactly.

    Every storage counts once and whole, however many views of it are saved; what was released on the way
    does not count, nor what an autograd function keeps without ``save_for_backward``.

    Args:
        compute: a forward pass; its result holds the graph.
        known: tensors that exist anyway and so do not count: parameters, buffers and inputs.
    """
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        one = _Kept(tensor)
        kept.add(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        result = compute()
    apart = {_storage(tensor)._cdata for tensor in known}
    found = {(storage := _storage(one.tensor))._cdata: storage.nbytes() for one in kept}
    del result
    return sum(size for key, size in found.items() if key not in apart)


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def available_bytes(device: torch.device) -> int:
    """Memory that is free to take, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if not _FREE.exists():  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _field_bytes(_FREE, "MemAvailable")


def data_bytes() -> int:
    """Private memory that this process may write to now, in bytes: what the kernel's limit on it counts."""
    return _status_bytes("VmData")


def _status_bytes(field: str) -> int:
    return _field_bytes(_STATUS, field)


def _field_bytes(path: Path, field: str) -> int:
    """A field of one of the kernel's tables of sizes in kB."""
    fields = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
    return int(fields[field].split()[0]) * 1024


def peak_bytes() -> int:
    """Largest resident size of this process since its start (or the last reset), in bytes."""
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory; on CPU torch raises a plain RuntimeError."""
    text = str(error)
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    )


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
