#!/usr/bin/env python3
"""The same questions to every engine that is here, over the same files: the answers must be equal.

    engines.py STORE [PROFILER_STORE]

STORE is a store's directory; `cargo run -p profiler-parquet --example fleet -- store DIR 20 5 10 38` makes one.
PROFILER_STORE is the program, for DataFusion's answers; without it, DataFusion is skipped aloud. DuckDB and chdb
(ClickHouse's engine) are PyPI's wheels `duckdb` and `chdb`; pyarrow, which knows no SQL, sums by itself.
"""

import csv
import io
import pathlib
import subprocess
import sys

# {samples} and {frames} are what an engine calls the two tables. ORDER BY makes rows comparable.
QUESTIONS = {
    "types": """
        SELECT service, type, unit, count(*) AS n, sum(value) AS v, min(value) AS least, max(value) AS most
        FROM {samples} GROUP BY service, type, unit ORDER BY service, type, unit""",
    "functions by their own": """
        SELECT f.function AS function, f.file AS file, sum(s.value) AS v
        FROM {samples} s JOIN {frames} f USING (set, service, stack)
        WHERE f.depth = 0 GROUP BY f.function, f.file ORDER BY v DESC, function, file LIMIT 50""",
    "functions in all": """
        SELECT f.function AS function, sum(s.value) AS v
        FROM {samples} s JOIN (SELECT DISTINCT set, service, stack, function FROM {frames}) f
        USING (set, service, stack)
        GROUP BY f.function ORDER BY v DESC, function LIMIT 50""",
    "a label": """
        SELECT labels['k8s.namespace.name'] AS team, count(DISTINCT host) AS hosts, sum(value) AS v
        FROM {samples} GROUP BY labels['k8s.namespace.name'] ORDER BY team""",
    "hours": "SELECT count(*) AS n, count(DISTINCT stack) AS stacks, sum(value * weight) AS v FROM {samples}",
    "no sample without frames": """
        SELECT count(*) AS n FROM {samples} s JOIN {frames} f USING (set, service, stack) WHERE f.depth = 0""",
}


def rows(text):
    return [tuple(cell(c) for c in row) for row in csv.reader(io.StringIO(text))]


def cell(value):
    """Numbers as numbers: engines write 1.0 and 1."""
    if value is None:
        return ""
    try:
        return float(value)
    except ValueError:
        return value


def duckdb(store):
    import duckdb

    connection = duckdb.connect()
    names = {
        "samples": f"read_parquet('{store}/v1/*/*/*.samples.parquet', hive_partitioning = true)",
        "frames": f"read_parquet('{store}/v1/*/*/*.frames.parquet', hive_partitioning = true)",
    }

    def ask(sql):
        found = connection.sql(sql.format(**names)).fetchall()
        return [tuple(cell(c if c is None else str(c)) for c in row) for row in found]

    return duckdb.__version__, ask


def chdb(store):
    import chdb

    names = {
        "samples": f"file('{store}/v1/*/*/*.samples.parquet', 'Parquet')",
        "frames": f"file('{store}/v1/*/*/*.frames.parquet', 'Parquet')",
    }
    version = str(chdb.query("SELECT version()", "TSV")).strip()
    return version, lambda sql: rows(str(chdb.query(sql.format(**names), "CSV")))


def datafusion(store, program):
    def ask(sql):
        sql = sql.format(samples="samples", frames="frames")
        command = [program, "query", "--store", store, "sql", "--csv", sql]
        return rows(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[1:]

    return "embedded", ask


def sums(store):
    """By type, of all files, without an engine."""
    import pyarrow.parquet

    sums = {}
    for path in sorted(pathlib.Path(store).glob("v1/*/*/*.samples.parquet")):
        table = pyarrow.parquet.read_table(path, columns=["service", "type", "unit", "value"], partitioning=None)
        for service, kind, unit, value in zip(*(column.to_pylist() for column in table.columns)):
            n, v, least, most = sums.get((service, kind, unit), (0, 0, value, value))
            sums[service, kind, unit] = (n + 1, v + value, min(least, value), max(most, value))
    return [key + tuple(float(n) for n in of) for key, of in sorted(sums.items())]


def main():
    store = sys.argv[1]
    engines = {}
    for name, open_engine in (("DuckDB", duckdb), ("chdb", chdb)):
        engines[name] = open_engine(store)
    if len(sys.argv) > 2:
        engines["DataFusion"] = datafusion(store, sys.argv[2])
    else:
        print("skipped: DataFusion: name the program as the second argument")
    wrong = 0
    for question, sql in QUESTIONS.items():
        answers = {name: ask(sql) for name, (_, ask) in engines.items()}
        if question == "types":
            answers["pyarrow"] = sums(store)
        first, *others = answers.items()
        for name, answer in others:
            if answer != first[1]:
                wrong += 1
                print(f"DIFFERENT: {question}: {first[0]}: {first[1][:3]} {name}: {answer[:3]}")
        print(f"{question}: {len(first[1])} rows, asked of {', '.join(answers)}")
    versions = ", ".join(f"{name} {version}" for name, (version, _) in engines.items())
    print(f"{versions}: {'all equal' if not wrong else f'{wrong} answers differ'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
