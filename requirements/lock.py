"""Write the pins beside this file: `make lock` keeps versions, `make lock ARGS=--upgrade` takes the newest.

uv resolves once, for every system and for Python 3.11 or newer; each package goes into one file. A set-up
installs build.txt, bench.txt and torch.txt, then test.txt, then lint.txt or launchers.txt, as far as it has
to. What `make perf` compares with has an environment of its own, with peers.txt and torch.txt; what both
environments need has the same version in both.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# For seqbench itself; setuptools also for antlr4-python3-runtime, which exists as source only.
BUILD_TOOLS = ["hatchling", "editables", "setuptools"]
# What a user would pick instead of seqbench (tests/peers); TensorFlow's CPU build exists for Linux alone.
PEERS = ["lightning", "transformers", "accelerate", "keras", "jax", "flax", "optax", "torch"]
PEERS += ["tensorflow-cpu; sys_platform == 'linux' and platform_machine == 'x86_64'"]
PEERS_FILE = "peers.txt"
PEERS_ABOUT = (
    "What `make perf` installs besides torch.txt, into an environment of its own; asked for in lock.py."
)
# Not the same in every build of torch.
TORCH_FAMILY = re.compile(r"torch|triton|(nvidia|cuda)-.*")
PIN = re.compile(r"^([a-z0-9._-]+)==.*\n(?:[ #].*\n)*", re.MULTILINE)  # a pin with its hashes and comments
SETS = {  # file: (extras of pyproject.toml, what the file holds)
    "build": (None, "What builds seqbench, and antlr4-python3-runtime, which exists as source only."),
    "bench": ((), "What `make bench` installs besides build.txt and torch.txt."),
    "test": (("test",), "What `make test` installs besides build.txt, bench.txt and torch.txt."),
    "lint": (("test", "dev"), "What `make lint` installs besides what `make test` does."),
    "launchers": (("test", "slurm", "ray"), "What `make launchers` installs besides what `make test` does."),
}
EXTRAS = tuple(sorted({extra for extras, _ in SETS.values() for extra in extras or ()}))
HASHED = """\
# {about}
# Exact versions, with the SHA-256 of every file of that version on PyPI: pip installs no other file.
# Written by `make lock`, which is the way to change it; pyproject.toml has the ranges.

"""
UNHASHED = """\
# torch and what its CUDA build brings along: versions only, no hashes. A version of torch exists in several
# builds (CPU, CUDA); which one you get, with which companions, depends on where your pip looks, and the
# hashes of one build would refuse all others. These are constraints: only what torch asks for is installed.
# Written by `make lock`; pyproject.toml has the ranges.

"""


def needed_by(extras: tuple[str, ...] | None, output: Path, *options: str) -> dict[str, str]:
    """What the build tools and, unless None, the project with these extras need, by package."""
    project = (
        [] if extras is None else ["pyproject.toml", *(w for extra in extras for w in ("--extra", extra))]
    )
    return pins(BUILD_TOOLS, output, *project, *options)


def pins(asked: list[str], output: Path, *options: str) -> dict[str, str]:
    """What these requirements need, by package."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--universal", "--python-version", "3.11"]
    command += ["--fork-strategy", "fewest", *options, "--output-file", str(output), "-"]
    subprocess.run(command, cwd=HERE.parent, input="\n".join(asked), text=True, check=True)
    found: dict[str, str] = {}
    for pin in PIN.finditer(output.read_text()):  # more than one where markers divide a package's versions
        found[pin[1]] = found.get(pin[1], "") + pin[0]
    return found


def main() -> None:
    """Resolve everything once, then write each package into the first file that needs it."""
    if shutil.which("uv") is None:
        sys.exit("make lock: no 'uv' on the path: pip install uv")
    with tempfile.TemporaryDirectory() as folder:
        every, some = Path(folder, "every.txt"), Path(folder, "some.txt")
        own = sorted(path for path in HERE.glob("*.txt") if path.name != PEERS_FILE)
        every.write_text("".join(path.read_text() for path in own))  # versions to keep
        left = needed_by(EXTRAS, every, "--generate-hashes", *sys.argv[1:])
        family = "".join(left.pop(name) for name in sorted(left) if TORCH_FAMILY.fullmatch(name))
        versions = re.findall(r"^[a-z].*?(?= \\?$)", family, re.MULTILINE)
        (HERE / "torch.txt").write_text(UNHASHED + "\n".join(versions) + "\n")
        for name, (extras, about) in SETS.items():
            needed = needed_by(extras, some, "-c", str(every))
            blocks = [left.pop(package) for package in needed if package in left]
            (HERE / f"{name}.txt").write_text(HASHED.format(about=about) + "".join(blocks))
        lock_peers(every, Path(folder, "peers.txt"))


def lock_peers(every: Path, output: Path) -> None:
    """Write what the peers need, at the versions of ``every`` where it is in there."""
    path = HERE / PEERS_FILE
    output.write_text(path.read_text() if path.exists() else "")  # versions to keep
    options = ["--generate-hashes", "--no-annotate", "-c", str(every)]  # notes would name the folder
    found = pins(PEERS, output, *options, *sys.argv[1:])
    blocks = [block for name, block in found.items() if not TORCH_FAMILY.fullmatch(name)]
    path.write_text(HASHED.format(about=PEERS_ABOUT) + "".join(blocks))


if __name__ == "__main__":
    main()
