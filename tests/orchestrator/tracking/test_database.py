"""MLflow's file: whole or not there; of no use, it is set aside and made again; others are left."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from orchestrator.plan.recorded import write_recorded
from orchestrator.sweep import main as sweep
from orchestrator.tracking import database
from orchestrator.tracking.__main__ import main as tracking
from orchestrator.tracking.database import Fault, fault_of, file_of, make, uri_of
from orchestrator.tracking.runs import Runs
from orchestrator.tracking.uris import check_uri, default_uri, why_without
from tests.orchestrator.sweeps import ROOT, wait_for
from trainers.config import TrialConfig

pytestmark = [
    pytest.mark.slow,  # imports MLflow and makes its database
    pytest.mark.filterwarnings("default"),  # MLflow's own
]
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))
SEED = int(os.environ.get("FAULT_SEED", "0"))
# Dies in the middle of a transaction, of which a part is on the disk.
KILLED = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size = 1")
database.execute("CREATE TABLE filler (text TEXT)")
database.executemany("INSERT INTO filler VALUES (?)", [("x" * 1000,)] * 1000)
os.kill(os.getpid(), signal.SIGKILL)
"""


STUDY = """
dataset: digits
model: mlp
loss: [ce, bce]
optimizer: sgd
epochs: 2
"""
Tiny = Callable[..., TrialConfig]


def fill(store: ResultStore, config: TrialConfig) -> None:
    """What a sweep leaves of a trial that finished."""
    trial = {"trial_id": config.trial_id, **config.row(), "status": "finished", "epochs_done": 2}
    trial |= {"started_at": datetime(2026, 1, 1, tzinfo=UTC), "wall_s": 5.0}
    store.write_rows("trials", config.trial_id, [trial])
    rows = [{"trial_id": config.trial_id, "epoch": e, "train_loss": 1 / e} for e in (1, 2)]
    store.write_rows("epochs", config.trial_id, rows)


def in_mlflow(path: Path) -> dict[str, tuple[str, int]]:
    """Of each trial, the experiment of its one run and its epochs."""
    with sqlite3.connect(path) as database:
        found = database.execute(
            "SELECT tags.value, experiments.name, COUNT(metrics.step) FROM runs "
            "JOIN experiments USING (experiment_id) JOIN tags USING (run_uuid) "
            "JOIN metrics USING (run_uuid) WHERE tags.key = 'trial_id' "
            "AND metrics.key = 'train_loss' AND runs.status = 'FINISHED' GROUP BY run_uuid"
        ).fetchall()
    assert len({trial_id for trial_id, _, _ in found}) == len(found)
    return {trial_id: (experiment, epochs) for trial_id, experiment, epochs in found}


@pytest.fixture
def ended(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """A folder with a study whose trials have all ended, and a trial of another; what MLflow owes.

    A sweep of that study has nothing to run, and so needs no Ray.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.tracking.mirror.FLUSH_S", 600.0)  # of a slow disk
    (tmp_path / "mine.yaml").write_text(STUDY)
    store, other = ResultStore("results"), tiny(epochs=2)
    fill(store, other)
    write_recorded(store, "other", [other], [])
    mine = [
        TrialConfig.parse({"dataset": "digits", "model": "mlp", "loss": loss, "optimizer": "sgd",
                           "epochs": 2})
        for loss in ("ce", "bce")
    ]  # fmt: skip
    for config in mine:
        fill(store, config)
    write_recorded(store, "mine", mine, [])
    return {other.trial_id: ("other", 2), **{c.trial_id: ("mine", 2) for c in mine}}


SWEEP = ["--study", "mine.yaml", "--quiet"]


def without(trials: dict[str, tuple], study: str) -> dict[str, tuple]:
    return {i: owed for i, owed in trials.items() if owed[0] != study}


@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_while_the_database_is_made_the_same_command_succeeds(
    tmp_path: Path, ended: dict[str, tuple], number: int
) -> None:
    database, elsewhere = tmp_path / "results" / "mlflow.db", tmp_path / "tmp"
    elsewhere.mkdir()
    command = [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), *SWEEP]
    environment = {**os.environ, "TMPDIR": str(elsewhere)}
    begun = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: database.exists() or any(elsewhere.rglob("*.db")), "the first table")
    time.sleep(random.Random(f"{SEED} {number}").uniform(0, 4))
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    assert sweep(SWEEP) == 0
    assert in_mlflow(database) == without(ended, "other")
    assert sorted(path.name for path in database.parent.glob("*mlflow.db*.*")) == []


def half_made(path: Path) -> None:
    """As a kill in an early migration leaves it."""
    with sqlite3.connect(path) as database:
        for table in ("experiments", "runs", "alembic_version"):
            database.execute(f"CREATE TABLE {table} (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")


def without_a_migration(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (name TEXT)")


def text(path: Path) -> None:
    path.write_text("these are notes, not a database\n" * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(20, len(data) // 4096):
        data[4096 * page : 4096 * page + 64] = bytes(64)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as MLflow makes it."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    make(uri_of(path))
    return path.read_bytes()


DAMAGE: dict[Callable[[Path], None], Fault] = {
    half_made: Fault.HALF_MADE,
    without_a_migration: Fault.HALF_MADE,
    text: Fault.UNREADABLE,
    cut: Fault.UNREADABLE,
    damaged_inside: Fault.UNREADABLE,
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_is_wrong_with_a_file(
    tmp_path: Path, made: bytes, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "mlflow.db"
    if damage in (cut, damaged_inside):
        path.write_bytes(made)
        assert fault_of(path, thoroughly=True) is None
    damage(path)
    assert fault_of(path, thoroughly=True) == DAMAGE[damage]


@pytest.mark.parametrize("damage", [half_made, damaged_inside], ids=lambda damage: damage.__name__)
def test_of_no_use_it_is_set_aside_and_all_of_it_made_again(
    tmp_path: Path,
    ended: dict[str, tuple],
    made: bytes,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = tmp_path / "results" / "mlflow.db"
    if damage == damaged_inside:
        database.write_bytes(made)
    damage(database)
    broken = database.read_bytes()
    assert sweep(SWEEP) == 0
    said = f"{database} {DAMAGE[damage].value}; it is mlflow.db.broken-1 now, and is made anew"
    assert said in capsys.readouterr().err
    assert in_mlflow(database) == ended  # of the other study too
    assert database.with_name("mlflow.db.broken-1").read_bytes() == broken


def test_rebuilding_sets_it_aside_too(
    tmp_path: Path, ended: dict[str, tuple], capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "results" / "mlflow.db"
    text(database)
    database.with_name("mlflow.db.broken-1").touch()
    assert tracking(["rebuild"]) == 0
    assert "it is mlflow.db.broken-2 now" in capsys.readouterr().err
    assert in_mlflow(database) == ended


def test_a_database_of_another_version_is_left_and_the_sweep_goes_on(
    tmp_path: Path, ended: dict[str, tuple], made: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "mlflow.db"
    path.write_bytes(made)
    with sqlite3.connect(path) as database:
        run = {"run_uuid": "1", "status": "FINISHED", "experiment_id": 0}
        database.execute(f"INSERT INTO runs {(*run,)} VALUES {(*run.values(),)}")
        database.execute("UPDATE alembic_version SET version_num = 'cfd24bdc0731'")
    before = path.read_bytes()
    assert sweep(SWEEP) == 0
    told = capsys.readouterr()
    reason = f"{path} is of another version of MLflow: `mlflow db upgrade sqlite:///{path}` brings"
    assert told.err.startswith(f"warning: the sweep goes on without MLflow: {reason}")
    assert told.err.count("\n") == 1
    assert f"not written: {reason}" in " ".join(told.out.split())
    assert path.read_bytes() == before
    assert tracking(["rebuild"]) == 2
    assert f"error: {reason}" in capsys.readouterr().err


def test_what_a_killed_sweep_had_half_written_is_rolled_back(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(made)
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert path.with_name("mlflow.db-journal").stat().st_size > 0
    assert fault_of(path, thoroughly=True) is None


def test_a_journal_whose_database_was_removed_is_not_the_new_ones(
    tmp_path: Path, made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.database._new_database", lambda: made)
    path = tmp_path / "mlflow.db"
    make(uri_of(path))
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    path.unlink()
    make(uri_of(path))
    assert fault_of(path, thoroughly=True) is None


def test_a_locked_database_is_no_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    half_made(path)
    with sqlite3.connect(path) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert fault_of(path) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", r"notes.txt is no database, or a damaged one; move it, use another --track"),
        ("others.db", r"others.db is a database of something else than MLflow; move it, use"),
        ("no/d/m.db", r"there is no folder .*/no/d; make it first"),
        ("", r"is a folder; name a file in it"),
    ],
)
def test_a_file_that_the_user_names_wrongly(tmp_path: Path, name: str, message: str) -> None:
    text(tmp_path / "notes.txt")
    with sqlite3.connect(tmp_path / "others.db") as database:
        database.execute("CREATE TABLE addresses (name TEXT)")
    default = default_uri(ResultStore(tmp_path / "results"), ".")
    with pytest.raises(InputError, match=message):
        check_uri(uri_of(tmp_path / name), default=default)
    check_uri(default, default=default)  # whose folder is made by the sweep
    check_uri(uri_of(tmp_path / "results" / "other.db"), default=default)


def test_a_half_made_one_that_the_user_names_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "named.db"
    half_made(path)
    default = default_uri(ResultStore(tmp_path / "results"), ".")
    check_uri(uri_of(path), default=default)
    reason = why_without(uri_of(path), default=default)
    assert reason == f"{path} {Fault.HALF_MADE.value}: move it"


STRANGE = ("100%", "a%20b", "50%25", "a b#c", "100%25 done", "why?", "100%/x?y=1")


@pytest.mark.parametrize("folder", STRANGE)
@pytest.mark.parametrize("decodes", [True, False], ids=["SQLAlchemy 2.1", "2.0"])
def test_a_path_with_a_per_cent_sign_is_that_path(
    tmp_path: Path, folder: str, decodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_are_decoded", lambda: decodes)
    uri = default_uri(ResultStore(tmp_path / folder), ".")
    assert file_of(uri) == tmp_path / folder / "mlflow.db"
    plain = f"sqlite:///{tmp_path}/{folder}/mlflow.db"
    assert (unquote(uri) if decodes else uri) == plain


@pytest.mark.parametrize("folder", STRANGE)
def test_the_database_is_made_in_that_folder_alone(tmp_path: Path, folder: str) -> None:
    """By MLflow itself, and by whichever SQLAlchemy is installed."""
    store = ResultStore(tmp_path / folder)
    (tmp_path / folder).mkdir(parents=True)
    uri = default_uri(store, ".")
    if "?" in folder and not database._are_decoded():
        with pytest.raises(InputError, match="question mark"):
            check_uri(uri, default=uri)
        return
    check_uri(uri, default=uri)
    Runs(uri)._client.create_experiment("mine")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / folder / "mlflow.db"]
    with closing(sqlite3.connect(files[0])) as file:
        assert ("mine",) in file.execute("SELECT name FROM experiments").fetchall()
