"""Write the pins beside this file: `make lock` keeps versions, `make lock ARGS=--upgrade` takes the newest.

uv resolves once, for every system and for Python 3.11 or newer; each package goes into one file. A set-up
installs build.txt, bench.txt and torch.txt, then test.txt, then lint.txt, as far as it has to.
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
# Not the same in every build of torch.
TORCH_FAMILY = re.compile(r"torch|triton|(nvidia|cuda)-.*")
PIN = re.compile(r"^([a-z0-9._-]+)==.*\n(?:[ #].*\n)*", re.MULTILINE)  # a pin with its hashes and comments
SETS = {  # file: (extras of pyproject.toml, what the file holds)
    "build": (None, "What builds seqbench, and antlr4-python3-runtime, which exists as source only."),
    "bench": ((), "What `make bench` installs besides build.txt and torch.txt."),
    "test": (("test",), "What `make test` installs besides build.txt, bench.txt and torch.txt."),
    "lint": (("test", "dev"), "What `make lint` installs besides what `make test` does."),
}
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


def pins(extras: tuple[str, ...] | None, output: Path, *options: str) -> dict[str, str]:
    """What the build tools and, unless None, the project with these extras need, by package."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--universal", "--python-version", "3.11"]
    command += ["--fork-strategy", "fewest", *options, "--output-file", str(output), "-"]
    if extras is not None:
        command += ["pyproject.toml", *(word for extra in extras for word in ("--extra", extra))]
    subprocess.run(command, cwd=HERE.parent, input="\n".join(BUILD_TOOLS), text=True, check=True)
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
        every.write_text("".join(path.read_text() for path in sorted(HERE.glob("*.txt"))))  # versions to keep
        left = pins(("test", "dev"), every, "--generate-hashes", *sys.argv[1:])
        family = "".join(left.pop(name) for name in sorted(left) if TORCH_FAMILY.fullmatch(name))
        versions = re.findall(r"^[a-z].*?(?= \\?$)", family, re.MULTILINE)
        (HERE / "torch.txt").write_text(UNHASHED + "\n".join(versions) + "\n")
        for name, (extras, about) in SETS.items():
            needed = pins(extras, some, "-c", str(every))
            blocks = [left.pop(package) for package in needed if package in left]
            (HERE / f"{name}.txt").write_text(HASHED.format(about=about) + "".join(blocks))


if __name__ == "__main__":
    main()
