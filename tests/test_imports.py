"""Who may import whom: the rule that docs/architecture.md draws, for every file of every room."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "cluster", "orchestrator", "trainers")
STORE = "analysis.store"
# Each room, and the rooms that it may import besides itself. A room is a folder; where a package's
# own files stand on different floors, each of them is one.
ROOMS: dict[str, tuple[str, ...]] = {
    STORE: (),
    "analysis.paper": (STORE,),
    "analysis.trials": (STORE, "analysis.paper"),
    "analysis.theory": (STORE, "analysis.paper", "analysis.trials"),
    "analysis.tables": (STORE, "analysis.paper", "analysis.trials", "analysis.theory"),
    "analysis.figures": (
        STORE, "analysis.paper", "analysis.trials", "analysis.theory", "analysis.tables",
    ),
    "analysis.report": (
        STORE, "analysis.paper", "analysis.trials", "analysis.theory", "analysis.tables",
        "analysis.figures",
    ),
    "trainers.registry": (STORE,),
    "trainers.recipes": (),
    "trainers.machine": (),
    "trainers.names": (STORE, "trainers.registry", "trainers.recipes"),
    "trainers.image_folder": (STORE, "trainers.machine"),
    "trainers.datasets": (STORE, "trainers.registry", "trainers.image_folder"),
    "trainers.config": (
        STORE, "trainers.registry", "trainers.recipes", "trainers.names", "trainers.datasets",
    ),
    "trainers.metrics": (STORE,),
    "trainers.data": (STORE, "trainers.image_folder", "trainers.datasets", "trainers.config"),
    "trainers.model": (
        STORE, "trainers.registry", "trainers.recipes", "trainers.datasets", "trainers.config",
    ),
    "trainers.run": (
        STORE, "trainers.registry", "trainers.config", "trainers.metrics", "trainers.data",
        "trainers.model",
    ),
    "trainers.train": (STORE, "trainers.config", "trainers.machine", "trainers.run"),
    "trainers.ray_worker": (STORE, "trainers.registry", "trainers.config", "trainers.run"),
    "orchestrator.options": (STORE,),
    "orchestrator.plan": (
        STORE, "orchestrator.options", "trainers.config", "trainers.registry", "trainers.run",
    ),
    "orchestrator.terminal": (
        STORE, "analysis.paper", "analysis.trials", "analysis.theory", "analysis.tables",
        "analysis.figures", "orchestrator.options", "orchestrator.plan", "trainers.config",
        "trainers.machine",
    ),
    "orchestrator.tracking": (STORE, "orchestrator.terminal", "trainers.config"),
    "orchestrator.run": (
        STORE, "orchestrator.options", "orchestrator.plan", "orchestrator.terminal",
        "orchestrator.tracking", "trainers.config", "trainers.machine", "trainers.run",
        "trainers.ray_worker",
    ),
    "orchestrator.sweep": (
        STORE, "orchestrator.options", "orchestrator.plan", "orchestrator.terminal",
        "orchestrator.tracking", "orchestrator.run", "trainers.run",
    ),
    "cluster": (STORE, "trainers.ray_worker"),
}  # fmt: skip
# Doors to a room: what starts a program, or offers a room's names. Nobody imports them but by name.
DOORS = re.compile(r".*\.__main__|analysis|analysis\.compact|(trainers|orchestrator)|.*\.studies")


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room(name: str) -> str | None:
    """The room that a module is in; None for one that is no room's."""
    return next((room for room in ROOMS if within(name, room)), None)


@pytest.mark.parametrize("path", files(*PACKAGES), ids=module)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    if DOORS.fullmatch(module(path)):
        return
    own = room(module(path))
    assert own, f"{path}: in no room"
    ours = [name for name in imports(path) if within(name, *PACKAGES)]
    assert [n for n in ours if room(n) not in (own, *ROOMS[own])] == []


def test_no_circle_of_rooms() -> None:
    order = list(TopologicalSorter(ROOMS).static_order())
    assert set(order) == set(ROOMS)


@pytest.mark.parametrize("path", files("analysis"), ids=module)
def test_analysis_needs_no_training_code(path: Path) -> None:
    forbidden = ("torch", "torchvision", "timm", "ray", "mlflow", *PACKAGES[1:])
    assert [name for name in imports(path) if within(name, *forbidden)] == []


def test_the_ground_needs_little() -> None:
    needed = {name.split(".")[0] for path in files("analysis/store") for name in imports(path)}
    assert needed - set(sys.stdlib_module_names) == {
        "analysis",
        "pyarrow",
        "typing_extensions",
        "yaml",
    }
    schema = {name.split(".")[0] for name in imports(ROOT / "analysis" / "store" / "schema.py")}
    assert schema <= {*sys.stdlib_module_names, "pyarrow"}


def test_ray_and_timm_have_few_doors() -> None:
    def importing(package: str) -> set[str]:
        found = (
            path for path in files("trainers") if any(within(n, package) for n in imports(path))
        )
        return {module(path) for path in found}

    assert importing("ray") == {"trainers.ray_worker"}
    assert importing("timm") == {
        "trainers.data.augment", "trainers.model.backbones", "trainers.model.batch_norm",
        "trainers.model.optim", "trainers.names",
    }  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_lives_there(package: str) -> None:
    for folder in {path.parent for path in files(package)}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
        assert text, folder


def test_no_file_shadows_a_library_when_its_folder_is_first_on_the_path() -> None:
    # `python orchestrator/sweep.py` puts orchestrator/ before site-packages.
    taken = {"ray", "mlflow", "torch", "timm", "yaml", "rich", "pandas", *sys.stdlib_module_names}
    names = {path.stem for path in (ROOT / "orchestrator").iterdir()}
    assert not {name for name in names if not name.startswith("__")} & taken


@pytest.mark.parametrize("name", ["orchestrator.sweep", "trainers.config", "analysis"])
def test_importing_a_plan_loads_no_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
