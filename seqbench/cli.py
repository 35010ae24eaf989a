"""The command line: help, composition through Hydra, errors in one line. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

from seqbench import userfile
from seqbench.errors import UsageError
from seqbench.launch.choice import Choice, check_words, choice, is_launcher_word, placed
from seqbench.secret import mask

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_LONGEST_LINE = 1_000
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PLAIN_HYDRA_FLAGS = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with 0 (fine), 1 (a run failed) or 2 (usage).

    A user's file that registers a layer ends in a call of this function; where that file is imported (by a
    child process, or because a command names it), the call does nothing.
    """
    caller = sys._getframe(1).f_globals.get("__name__")
    if caller == "__mp_main__":  # how multiprocessing names the main file when a child imports it
        return
    if userfile.is_loaded(caller):  # the user's file was named, not run
        return
    args = list(sys.argv[1:] if argv is None else argv)
    if any(arg in ("--help", "-h") for arg in args):
        from seqbench.help import help_text

        print(help_text())
        sys.exit(EXIT_FINE)
    if "--version" in args:
        import seqbench

        print(f"seqbench {seqbench.__version__}")
        sys.exit(EXIT_FINE)
    began = time.monotonic()
    for name in _STOP_SIGNALS:
        if signal.getsignal(name) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(name, _interrupt)
    try:
        words = _with_files(args)
        launcher = chosen_launcher(words)
        jobs = compose(words, launcher)
        if _asks_hydra(args):
            sys.exit(EXIT_FINE)
        sys.exit(_run(jobs, args, launcher, began))
    except UsageError as error:
        _complain(str(error))
        sys.exit(EXIT_USAGE)
    except BrokenPipeError:  # whoever read our output has gone, and with it the place to say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        for name in _STOP_SIGNALS:  # once is enough: what is under way is brought to its end
            signal.signal(name, signal.SIG_IGN)
        from seqbench.isolate import end_children
        from seqbench.sweep import resume_command

        end_children()
        with contextlib.suppress(OSError):  # the terminal may be gone (SIGHUP)
            print(
                f"\ninterrupted; finished runs are kept\ngo on with: {resume_command(args)}", file=sys.stderr
            )
        sys.exit(EXIT_FAILED)


def _with_files(args: list[str]) -> list[str]:
    """The command line with files of layers replaced by the names of their models."""

    def program() -> list[str]:
        from seqbench import sweep

        return sweep.program()

    return userfile.named(args, program)


def _run(jobs: list[Any], args: list[str], launcher: Choice | None, began: float) -> int:
    """Run the sweep, here or by a launcher's engine, and report on it; or say what would run.

    Args:
        began: monotonic clock when the command started.
    """
    from rich.console import Console

    from seqbench import hooks, locks
    from seqbench.isolate import end_children
    from seqbench.sweep import Start, run_sweep

    console = Console()
    held = contextlib.ExitStack()
    held.enter_context(locks.busy(_say_waiting))  # here, where Ctrl-C ends the wait
    loading = Thread(target=_load_report, args=(held,))  # while the server of child processes loads torch
    loading.start()
    try:
        swept = run_sweep(jobs, args, console, launcher, Start(began, loading.join))
    finally:
        loading.join()
    end_children()  # the server would else clear up for as long as it took to load
    if swept is None:
        return EXIT_FINE
    try:
        with locks.busy():
            return hooks.finish(
                swept.folder, Path(jobs[0].reports_dir), console, swept.runs, swept.unrecorded, jobs[0].report
            )
    except UsageError as error:  # the folder was taken away while the sweep ran
        _complain(str(error))
        return EXIT_FAILED


def _load_report(held: contextlib.ExitStack) -> None:
    """Import what the report is made with, so that it is there when the last run ends; let go of the lock."""
    from seqbench.report import load

    with held:
        load.libraries()


def _complain(message: str) -> None:
    """Say in one printable line what cannot be used; whatever was typed, no secret is repeated."""
    line = "".join(c if c.isprintable() else " " for c in mask(message))
    if len(line) > _LONGEST_LINE:  # what was typed comes first, the reason last
        line = f"{line[: _LONGEST_LINE // 2]}...{line[-_LONGEST_LINE // 2 :]}"
    print(f"seqbench: {line}", file=sys.stderr)


def _asks_hydra(args: list[str]) -> bool:
    """Whether a flag makes Hydra answer by itself (show the configuration, complete a word)."""
    return any(arg.split("=")[0] in _PLAIN_HYDRA_FLAGS for arg in args)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def conf_folder() -> Path:
    """The configuration folder: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UsageError(f"no conf/config.yaml beside {package}; reinstall seqbench")


def chosen_launcher(args: list[str]) -> Choice | None:
    """What ``hydra/launcher`` and its settings say: the engine that does the runs; None: this process.

    Raises:
        UsageError: there is none of this name, it is not installed, or a setting is none of its own.
    """
    words = [word for word in args if is_launcher_word(word)]
    if not words or _asks_hydra(args):
        return None
    from seqbench.overrides import check_flags

    given = check_flags(args)
    check_words(words, [Path(given.config_dir)] if given.config_dir else [])
    return choice(_launcher_node(words, given.config_dir))


def _launcher_node(words: list[str], folder: str | None) -> dict[str, Any]:
    """Let Hydra compose its launcher node alone, as plain data."""
    import hydra
    import yaml  # type: ignore[import-untyped]
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from seqbench.launch.ray_settings import RayConf
    from seqbench.overrides import explain

    store = ConfigStore.instance()
    _store_settings(store)
    store.store(group="hydra/launcher", name="seqbench_ray", node=RayConf)
    store.store(group="hydra/output", name="scratch", node=_output(tempfile.gettempdir()), package="hydra")
    searched = [f"hydra.searchpath=[file://{Path(folder).absolute()}]"] if folder else []
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            composed = hydra.compose("config", [*words, *searched], return_hydra_config=True)
        node = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise UsageError(explain(error)) from error
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def _store_settings(store: Any) -> None:
    """Tell Hydra the settings of a job, and of every model and task."""
    from seqbench.config import Job
    from seqbench.registry import plugins

    store.store(name="job_schema", node=Job)
    for group in ("model", "task"):
        for name, cls in plugins(group).items():
            store.store(group=group, name=name, node=cls)


def compose(args: list[str], launcher: Choice | None = None) -> list[Any]:
    """Compose every job of the command line and check it; nothing heavy has been imported.

    Args:
        launcher: what does the runs, where that is not this process.

    Raises:
        UsageError: one line that names the key, what is wrong and what would be right.
    """
    from seqbench import locks
    from seqbench.config import checked, name_reference
    from seqbench.isolate import warm_server
    from seqbench.overrides import check_flags, check_overrides

    given = check_flags(args)
    if not given.shell_completion:  # which completes what is not whole yet
        check_overrides(given.overrides, several=given.multirun)
    with contextlib.ExitStack() as stack:
        if not _asks_hydra(args):
            stack.enter_context(locks.busy(_say_waiting))
            warm_server()  # torch is imported over there while Hydra composes here
        jobs = _composed(args if _asks_hydra(args) else [word for word in args if not is_launcher_word(word)])
    for job in jobs:
        if launcher is not None:
            placed(job, launcher)
        name_reference(job, jobs)
        checked(job)
        _check_places(runs_dir=job.runs_dir, reports_dir=job.reports_dir)
        for probe in job.probes:
            known_probe(probe)
    return jobs


def _say_waiting() -> None:
    print("waiting: a speed measurement has the machine to itself", file=sys.stderr)


def _composed(args: list[str]) -> list[Any]:
    """Let Hydra compose a job for each point of the sweep.

    Raises:
        UsageError: what Hydra cannot compose, in one line.
    """
    import hydra
    import yaml
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from seqbench.config import Job
    from seqbench.overrides import explain, per_job

    store = ConfigStore.instance()
    _store_settings(store)
    jobs: list[Job] = []

    def collect(config: DictConfig) -> None:
        job = OmegaConf.to_object(config)
        assert isinstance(job, Job)
        jobs.append(job)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of being printed as tracebacks
    sys.argv[1:] = per_job(args)
    program = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(collect)
    try:
        with tempfile.TemporaryDirectory(prefix="seqbench-") as scratch:
            store.store(group="hydra/output", name="scratch", node=_output(scratch), package="hydra")
            program()
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise UsageError(explain(error)) from error
    return jobs


def _check_places(**places: str) -> None:
    """Refuse a place for results that cannot be a folder before anything is trained.

    Raises:
        UsageError: names the setting and what is in the way.
    """
    for key, place in places.items():
        there = next(path for path in (Path(place), *Path(place).absolute().parents) if path.exists())
        if not there.is_dir():
            raise UsageError(f"{key}={place}: {there} is not a folder: choose another place")


def _output(scratch: str) -> dict[str, Any]:
    """Where Hydra leaves the settings of a sweep: nowhere to stay, since they hold the whole command."""
    return {"run": {"dir": "."}, "sweep": {"dir": scratch, "subdir": "."}}


def known_probe(name: object) -> None:
    """Check a probe's name without importing torch: probes are named after their files.

    Raises:
        UsageError: no such probe.
    """
    from seqbench.errors import nearest
    from seqbench.registry import registered

    files = {path.stem for path in (Path(__file__).parent / "probes").glob("*.py")} - {"__init__", "base"}
    known = files | set(registered("probe"))
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"probes={name}: no such probe; {nearest(str(name), known)}")
