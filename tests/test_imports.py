"""Who may import whom: orchestrator -> trainers -> the shared part of analysis <- analysis."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What of `analysis` both sides use: what files hold and how they are read, written and locked.
SHARED = ("schema", "storage", "atomic", "lease", "lock", "merged", "command_line")
PACKAGES = ("analysis", "cluster", "orchestrator", "trainers")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", files("analysis"), ids=str)
def test_analysis_needs_no_training_code(path: Path) -> None:
    forbidden = (
        "trainers",
        "orchestrator",
        "cluster",
        "torch",
        "torchvision",
        "timm",
        "ray",
        "mlflow",
    )
    assert [name for name in imports(path) if within(name, *forbidden)] == []


@pytest.mark.parametrize("path", files("trainers"), ids=str)
def test_trainers_know_no_orchestrator_and_only_what_is_shared(path: Path) -> None:
    names = list(imports(path))
    assert [name for name in names if within(name, "orchestrator", "cluster")] == []
    shared = [f"analysis.{name}" for name in SHARED]
    assert [n for n in names if within(n, "analysis") and not within(n, *shared)] == []


def test_ray_and_timm_each_have_one_door() -> None:
    ray = {path.name for path in files("trainers") if any(within(n, "ray") for n in imports(path))}
    timm = {
        path.name for path in files("trainers") if any(within(n, "timm") for n in imports(path))
    }
    assert ray == {"ray_worker.py"}
    assert timm == {"augment.py", "backbones.py", "optim.py", "recipes.py"}


def test_schema_imports_the_standard_library_and_pyarrow_only() -> None:
    roots = {name.split(".")[0] for name in imports(ROOT / "analysis" / "schema.py")}
    assert roots <= {*sys.stdlib_module_names, "pyarrow"}


def test_no_file_shadows_a_library_when_its_folder_is_first_on_the_path() -> None:
    # `python orchestrator/sweep.py` puts orchestrator/ before site-packages.
    taken = {
        "ray",
        "mlflow",
        "torch",
        "timm",
        "yaml",
        "rich",
        "pandas",
        "queue",
        "logging",
        "types",
    }
    for package in PACKAGES:
        assert not {path.stem for path in files(package)} & taken


@pytest.mark.parametrize("module", ["orchestrator.sweep", "trainers.config", "analysis"])
def test_importing_a_plan_loads_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
