"""The house rules: imports go downwards, nothing heavy too early, measuring and reporting meet on disk."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
from functools import cache
from pathlib import Path

import pytest

import seqbench

PACKAGE = Path(seqbench.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
HEAVY = {
    "torch",
    "pandas",
    "seaborn",
    "datasets",
    "matplotlib",
    "scipy",
    "statsmodels",
    "pyarrow",
    "rich",
    "jinja2",
}

# Lowest first. A module imports modules of lower layers, and of its own layer only where siblings are
# no plugins of each other.
LAYERS = [
    ["seqbench"],
    ["seqbench.errors", "seqbench.store", "seqbench.secret", "seqbench.metric"],
    ["seqbench.records", "seqbench.guard"],
    [
        "seqbench.schema",
        "seqbench.seeds",
        "seqbench.registry",
        "seqbench.budget",
        "seqbench.collected",
        "seqbench.stats",
        "seqbench.stats.*",
        "seqbench.floors",
    ],
    [
        "seqbench.batch",
        "seqbench.environment",
        "seqbench.memory",
        "seqbench.native",
        "seqbench.precision",
        "seqbench.locks",
        "seqbench.checkpoint",
        "seqbench.userfile",
        "seqbench.sealed",
    ],
    ["seqbench.cache", "seqbench.source", "seqbench.source_*", "seqbench.text"],
    [
        "seqbench.models",
        "seqbench.tasks",
        "seqbench.models.base",
        "seqbench.tasks.base",
        "seqbench.tasks.formal_base",
        "seqbench.tasks.text_base",
        "seqbench.layers",
        "seqbench.layers.*",
    ],
    ["seqbench.timing"],
    ["seqbench.models.*", "seqbench.tasks.*"],
    ["seqbench.config"],
    ["seqbench.network", "seqbench.match", "seqbench.replay", "seqbench.cost", "seqbench.kernel"],
    ["seqbench.subject"],
    ["seqbench.probes", "seqbench.probes.*"],
    ["seqbench.conformance", "seqbench.optional"],
    ["seqbench.evaluate", "seqbench.contract", "seqbench.generate"],
    ["seqbench.graphs"],
    ["seqbench.stepper"],
    ["seqbench.train"],
    ["seqbench.stacked"],
    ["seqbench.speed", "seqbench.grid", "seqbench.overrides", "seqbench.help", "seqbench.plan"],
    [
        "seqbench.ledger",
        "seqbench.build",
        "seqbench.recorder",
        "seqbench.speed_unit",
        "seqbench.events",
        "seqbench.trials",
        "seqbench.tune",
        "seqbench.tuned_file",
    ],
    ["seqbench.earlier", "seqbench.pilot"],
    ["seqbench.worker"],
    ["seqbench.warm"],
    ["seqbench.isolate"],
    ["seqbench.launch", "seqbench.launch.*"],
    ["seqbench.forecast"],
    ["seqbench.pace"],
    ["seqbench.outlook"],
    ["seqbench.display"],
    ["seqbench.sweep"],
    ["seqbench.report", "seqbench.report.*"],
    ["seqbench.adapters", "seqbench.adapters.*"],
    ["seqbench.hooks"],
    ["seqbench.cli"],
    ["seqbench.__main__"],
    [
        "seqbench.verify",
        "seqbench.verify.*",
        "seqbench.check",
        "seqbench.collect",
        "seqbench.new",
        "seqbench.compare",
        "seqbench.compare.*",
        "seqbench.perf",
        "seqbench.perf.*",
    ],
]
PLUGINS = ("seqbench.models.", "seqbench.tasks.", "seqbench.probes.", "seqbench.report.plots.")


def layer(module: str) -> int:
    """The lowest layer that names the module, or the lowest with a pattern for it."""
    for match in (lambda pattern: pattern == module, lambda pattern: fnmatch.fnmatchcase(module, pattern)):
        for rank, patterns in enumerate(LAYERS):
            if any(match(pattern) for pattern in patterns):
                return rank
    raise AssertionError(f"{module} has no layer; add it to LAYERS")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@cache
def imports(module: str, *, late: bool) -> frozenset[str]:
    """Modules that ``module`` imports when it is loaded; with ``late`` also inside its functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if is_type_checking(node) or (not late and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else str(node.module) for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    return frozenset(found)


def own(modules: frozenset[str]) -> set[str]:
    return {name for name in modules if name in MODULES}


def closure(module: str) -> set[str]:
    """Everything that loading ``module`` loads, as far as seqbench's own code decides it."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports(name, late=False) if name in MODULES else []
    return seen


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module):
    for target in own(imports(module, late=True)) - {module}:
        if (module, target) == ("seqbench.isolate", "seqbench.worker"):
            assert target not in imports(module, late=False)  # only ever loaded in a child process
        if any(module.startswith(group) and target.startswith(group) for group in PLUGINS):
            shared = target.endswith(".base") or layer(target) < layer(module)
            assert shared or module.startswith("seqbench.report"), (
                f"plugin {module} imports its sibling {target}"
            )
        assert layer(target) <= layer(module), f"{module} must not import {target}"


def test_imports_have_no_cycles():
    graph = {module: own(imports(module, late=False)) - {module} for module in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(MODULES)


@pytest.mark.parametrize("module", ["seqbench.cli", "seqbench.help", "seqbench.overrides", "seqbench.config"])
def test_the_command_line_loads_nothing_heavy(module):
    roots = {name.split(".")[0] for name in closure(module)}
    assert not roots & HEAVY


@pytest.mark.parametrize("group", ["models", "tasks"])
def test_declaring_a_model_or_a_task_loads_nothing_heavy(group):
    for module in MODULES:
        if module.startswith(f"seqbench.{group}"):
            assert not {name.split(".")[0] for name in closure(module)} & HEAVY, module


def test_the_report_reads_records_and_never_the_measuring_half():
    allowed = {
        "seqbench",
        "seqbench.store",
        "seqbench.locks",
        "seqbench.records",
        "seqbench.collected",
        "seqbench.stats",
        "seqbench.metric",
        "seqbench.errors",
    }
    for module in MODULES:
        if module.startswith("seqbench.report"):
            targets = imports(module, late=True)
            assert not {name.split(".")[0] for name in targets} & {"torch", "hydra", "omegaconf"}, module
            others = {name for name in own(targets) if not name.startswith("seqbench.report")}
            assert others <= allowed, module


def test_no_module_is_a_drawer_for_leftovers():
    stems = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not stems & {"utils", "util", "helpers", "common", "misc", "tools"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_and_functions_stay_readable(module):
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400, f"{module} is long; split it"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 60, f"{module}.{node.name} is long; split it"


def test_every_module_says_what_it_is_for():
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), module
