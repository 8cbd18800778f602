"""Joins the files of the schema into one, `sql/absurd.sql`, for other services' migration tools and docker-entrypoint-initdb.d.

Without arguments it writes the file (`make sql`). With `--check` it only says whether the file is fresh (`make check`).
With `--baseline` it also keeps the schema of the present version for the test of upgrades from it (`make baseline`).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from absurd.schema.contents import Contents, read_contents

ROOT = Path(__file__).resolve().parents[1]
SQL = ROOT / "sql"
TARGET = SQL / "absurd.sql"
BASELINES = ROOT / "tests" / "baselines"
HEADER = """\
-- The schema of Absurd, version {version}: durable tasks on PostgreSQL 15 or newer.
-- Generated from the files that sql/install.sql names, by `make sql`. Do not edit.
-- Load it into a database that has no schema `absurd`: psql -v ON_ERROR_STOP=1 -f absurd.sql

begin;
"""


def main() -> int:
    """Write or check the file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the file is fresh")
    parser.add_argument("--baseline", action="store_true", help="also keep the schema of this version for the test of upgrades")
    options = parser.parse_args()
    contents = read_contents(SQL)
    problems = find_problems(contents)
    if options.check and not problems and (not TARGET.exists() or TARGET.read_text(encoding="utf-8") != build(contents)):
        problems.append("sql/absurd.sql is not what the files in sql/ make: run `make sql` and commit it.")
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if not options.check:
        TARGET.write_text(build(contents), encoding="utf-8")
    if options.baseline:
        BASELINES.mkdir(exist_ok=True)
        (BASELINES / f"{contents.version}.sql").write_text(build(contents), encoding="utf-8")
    return 0


def build(contents: Contents) -> str:
    """The text of the file."""
    parts = [HEADER.format(version=contents.version)]
    for path in contents.files:
        parts.append(f"-- {path.relative_to(contents.root).as_posix()}\n\n{path.read_text(encoding='utf-8').strip()}\n")
    parts.append(f"{contents.comment_statement()}commit;\n")
    return "\n".join(parts)


def find_problems(contents: Contents) -> list[str]:
    """What the contents page and the files disagree about."""
    on_disk = {path for directory in ("tables", "functions") for path in (SQL / directory).glob("*.sql")}
    listed = set(contents.files)
    problems = [f"{path.relative_to(ROOT)} is not listed in sql/install.sql." for path in sorted(on_disk - listed)]
    problems += [
        f"{path.relative_to(ROOT)} is listed in sql/install.sql and missing." for path in sorted(listed) if not path.exists()
    ]
    recorded = re.search(r"schema_version \(version\) values \('(\d+)'\)", (SQL / "finish.sql").read_text(encoding="utf-8"))
    if recorded is None or recorded[1] != contents.version:
        problems.append(f"sql/finish.sql must record version '{contents.version}', the number of the newest migration.")
    return problems


if __name__ == "__main__":
    sys.exit(main())
