"""When a sweep ends: summary, verdicts, report, exit code."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console


def finish(folder: Path, reports: Path, console: Console) -> int:
    return 0
