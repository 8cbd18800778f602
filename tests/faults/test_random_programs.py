"""Random programs run while faults strike, and an oracle judges what came of them.

A seed gives the same programs under the same choice of faults: ``ABSURD_FAULTS_SEED``, which ``make faults`` takes anew each time
and a failure prints. The programs that are concerned are kept in ``.cache/faults``: once understood they belong into ``corpus/``,
which is played first.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import fast_directory
from tests.faults import kinds as faults
from tests.faults.conftest import SETTINGS
from tests.faults.kinds import FAULTS, Fault
from tests.faults.programs import Task
from tests.faults.programs.evidence import Evidence
from tests.faults.programs.field import Field, Round
from tests.faults.programs.generator import make_program, make_programs
from tests.faults.programs.oracle import census, judge
from tests.faults.report import Promise, record
from tests.faults.striker import Striker

SEED = os.environ.get("ABSURD_FAULTS_SEED") or "1"
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
KEPT = Path(__file__).parents[2] / ".cache" / "faults"
# Of the short form: a worker stands still, and the server is away, for somewhat longer than a lease still.
BRISK = 0.6
TIMEOUT = 120.0  # seconds after healing; only a failing test takes them
PROMISES: tuple[Promise, ...] = (
    "one end",
    "steps once",
    "transactions once",
    "events once",
    "fence",
    "recovery",
    "open queue",
)
WORKERS = (faults.Kill, faults.Stop, faults.Freeze, faults.WrongClock, faults.Block)
CONNECTIONS = (faults.Terminate, faults.Cut, faults.HalfClose, faults.LoseAnswers, faults.HoldLocks)
SERVER = (faults.Restart, faults.Down, faults.Delay, faults.Silence)


@pytest.fixture(scope="module")
def field_() -> Iterator[Field]:
    """Server, proxy, workers and clients, for all tests here."""
    directory = Path(tempfile.mkdtemp(prefix="field-", dir=fast_directory()))
    directory.chmod(0o755)
    with Field(directory, binaries=os.environ.get("ABSURD_TEST_POSTGRES_BIN"), server=SETTINGS) as field:
        yield field
    shutil.rmtree(directory, ignore_errors=True)


def attack(
    field: Field, name: str, roots: list[Task], kinds: Sequence[type[Fault]], seconds: float, together: int = 1, pace: float = 1.0
) -> Round:
    """Plays programs under these faults, each of which strikes at least once; nothing must be wrong."""
    if field.spoilt:
        pytest.skip("an earlier attack has failed, and what it left would be judged here")
    field.spoilt = True
    rng = random.Random(f"{SEED}/{name}")
    striker = Striker(field, kinds, rng, together=together, gaps=(0.05, 0.6), pace=pace)
    one = field.play(roots, lambda: striker.attack(seconds, each=True), spread=seconds * 0.8, timeout=TIMEOUT)
    if one.violations:
        KEPT.mkdir(parents=True, exist_ok=True)
        concerned = {violation.split(":")[0].split(".")[0] for violation in one.violations}
        file = KEPT / f"{name}-{SEED}.json"
        file.write_text(json.dumps([root for root in field.roots if root["key"] in concerned] or field.roots, indent=1))
        pytest.fail(f"seed {SEED}, programs in {file}\n" + "\n".join(one.violations[:10]), pytrace=False)
    assert field.clean_up() == []
    field.spoilt = False
    for kind in kinds:
        record(kind.name, PROMISES, injected=striker.counts[kind.name], tasks=one.counts["tasks"])
    return one


def test_the_programs_of_the_corpus(field_: Field) -> None:
    roots = [root for file in CORPUS for root in json.loads(file.read_text())["programs"]]
    assert len(roots) >= 5
    attack(field_, "corpus", roots, (faults.Kill, faults.Cut, faults.Terminate), 2.0, together=2, pace=BRISK)


@pytest.mark.short
def test_workers_that_are_killed_stopped_frozen_blocked_or_off_by_hours(field_: Field) -> None:
    attack(field_, "workers", make_programs(f"{SEED}/workers", 20), WORKERS, 2.0, together=3, pace=BRISK)


@pytest.mark.short
def test_connections_that_break_in_every_way(field_: Field) -> None:
    attack(field_, "connections", make_programs(f"{SEED}/connections", 20), CONNECTIONS, 2.0, together=2, pace=BRISK)


@pytest.mark.short
def test_a_server_that_crashes_or_is_away_and_a_network_that_is_slow_or_silent(field_: Field) -> None:
    attack(field_, "server", make_programs(f"{SEED}/server", 20), SERVER, 2.0, together=2, pace=BRISK)


@pytest.mark.full
@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_each_fault_alone(field_: Field, kind: type[Fault]) -> None:
    attack(field_, kind.__name__, make_programs(f"{SEED}/{kind.__name__}", 35), [kind], 2.5)


@pytest.mark.full
def test_all_faults_mixed(field_: Field) -> None:
    attack(field_, "mixed", make_programs(f"{SEED}/mixed", 200), FAULTS, 20.0, together=4)


# -- the generator and the oracle themselves ------------------------------------------------------------------------------------


def test_a_seed_makes_the_same_programs_again() -> None:
    assert make_programs("some seed", 50) == make_programs("some seed", 50) != make_programs("another", 50)


def test_programs_are_json_and_their_tasks_have_keys_of_their_own() -> None:
    roots = make_programs("keys", 200)
    assert json.loads(json.dumps(roots)) == roots
    keys = [task.key for task in census(roots)]
    assert len(keys) == len(set(keys)) > 400


def test_the_oracle_misses_nothing_that_was_to_be() -> None:
    roots = [make_program("nothing", f"p{number}") for number in range(20)]
    certain = [task.key for task in census(roots) if task.certain]
    found = judge(roots, Evidence())
    assert len([line for line in found if "0 tasks instead of one" in line]) == len(certain)


def test_the_oracle_sees_every_kind_of_forgery(field_: Field) -> None:
    """Rows are bent after a round in which all was well: each bend is a broken promise, and must be noticed."""
    roots = [
        {
            "key": "forged",
            "task": "play-sync",
            "queue": "alpha",
            "options": {"max_attempts": 3},
            "outside": [{"act": "emit", "event": "forged:e", "queue": "alpha", "how": "conn", "at": 0.2}],
            "nodes": [
                {"op": "step", "id": "n1"},
                {"op": "transaction", "id": "n2"},
                {"op": "wait", "id": "n3", "event": "forged:e", "queue": "alpha", "timeout": 600, "may": ["event", "timeout"]},
                {"op": "emit", "id": "n4", "event": "forged:f", "queue": "beta"},
                {"op": "helper", "id": "n5", "of": "random"},
            ],
        }
    ]
    evidence = field_.play(roots, lambda: None, 0.0, TIMEOUT).evidence
    assert field_.clean_up() == []
    assert evidence is not None
    evidence.tasks = {key: rows for key, rows in evidence.tasks.items() if key == "forged"}  # without the probes
    assert judge(roots, evidence) == []
    (task,) = evidence.tasks["forged"]
    checkpoints = evidence.checkpoints[task["task_id"]]
    step, transaction = evidence.effects["forged", "n1"], evidence.effects["forged", "n2"]
    wait = checkpoints["$await:forged:e"]

    def noticed(bend: str) -> None:
        assert judge(roots, evidence), f"not noticed: {bend}"

    for bend, rows in (("a second task", evidence.tasks["forged"]), ("a step twice in one run", step)):
        rows.append(dict(rows[0]))
        noticed(bend)
        rows.pop()
    step.append({**step[0], "began": checkpoints["n1"]["completed_at"] + (step[0]["at"] - step[0]["began"]) * 100, "epoch": 99})
    noticed("a step after its checkpoint")
    step.pop()
    step.append({**step[0], "epoch": step[0]["epoch"] + 1})
    noticed("a step again without an interruption")
    step.pop()
    for bend, effects in (("no effect of a step", step), ("no effect of a transaction", transaction)):
        kept = effects.pop()
        noticed(bend)
        effects.append(kept)
    transaction.append({**transaction[0], "epoch": 99})
    noticed("a transaction twice")
    transaction.pop()
    for row, column, value in (
        (task, "outcome", "failed"),
        (task, "outcome", None),
        (task, "result", [*task["result"][:-1], "0.5"]),
        (task, "result", ["other", *task["result"][1:]]),
        (task, "result", [*task["result"][:2], ["timeout"], *task["result"][3:]]),
        (wait, "kind", "timeout"),
        (evidence.emissions, "forged/n4", 2),
        (evidence.emissions, "forged!0", 0),
    ):
        kept, row[column] = row[column], value
        noticed(f"{column} {value}")
        row[column] = kept
    evidence.left.append("run: somebody")
    noticed("a run that is left")
    evidence.left.clear()
    assert judge(roots, evidence) == []
