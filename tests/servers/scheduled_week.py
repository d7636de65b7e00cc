"""Runs `legenda schedule` for a simulated week on a bucket of an S3 server (moto, from PyPI).

The week takes about a minute on an accelerated clock. Meanwhile tables arrive, and the service is
killed and stopped.

    python tests/servers/scheduled_week.py target/release/legenda

Every slot of the week must run once, including across the daylight saving change, and every row of
every table must appear in the output once. Needs the packages of `tests/src/python.rs`.
"""

import datetime as dt
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

ZONE = ZoneInfo("Europe/Berlin")
# The week in which daylight saving time starts there.
BEGIN = dt.datetime(2026, 3, 26, 0, 30, tzinfo=dt.UTC)
END = BEGIN + dt.timedelta(days=7)
SPEED = 8000
PATIENCE = 240
JOB = """
version = 1
[task]
kind = "generate"
[source]
paths = ["s3://bucket/tables/*.parquet"]
columns = { id = "id", text = "question" }
[generation]
max_new_tokens = 2
[output]
path = "s3://bucket/out"
[schedule]
cron = "0 */6 * * *"
time_zone = "Europe/Berlin"
catch_up = "all"
retries = 3
"""


class Week:
    """The bucket, the clock, and the service that uses them."""

    def __init__(self, binary: str, place: Path) -> None:
        """Starts the server and the clock."""
        self.binary, self.place = binary, place
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        self.server.start()
        host, port = self.server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        os.environ.update(keys, AWS_DEFAULT_REGION="us-east-1")
        self.bucket = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        self.bucket.create_bucket(Bucket="bucket")
        self.began = dt.datetime.now(dt.UTC)
        self.environment = os.environ | {
            "AWS_ENDPOINT": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "LEGENDA_LEASE_SECONDS": "1",
            "LEGENDA_CLOCK": f"{self.began.isoformat()},{BEGIN.isoformat()},{SPEED}",
        }
        self.n_rows = 0
        self.n_tables = 0
        self.service: subprocess.Popen[bytes] | None = None

    def now(self) -> dt.datetime:
        """Returns the current time on the clock of the service."""
        return BEGIN + (dt.datetime.now(dt.UTC) - self.began) * SPEED

    def add_table(self) -> None:
        """Uploads another table to the bucket."""
        name, n_rows = f"t{self.n_tables:02}.parquet", 5 + self.n_tables
        rows = [
            {"id": f"{name}-{row}", "question": f"What is {row} plus {self.n_tables}?"}
            for row in range(n_rows)
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.place / name)
        self.bucket.upload_file(str(self.place / name), "bucket", f"tables/{name}")
        self.n_tables += 1
        self.n_rows += n_rows

    def grow(self) -> None:
        """Uploads a table for every day that has started."""
        if self.n_tables < 7 and self.now() > BEGIN + dt.timedelta(days=self.n_tables):
            self.add_table()

    def start(self) -> None:
        """Starts the service."""
        command = [self.binary, "schedule", str(self.place / "jobs"), "--no-page"]
        log = (self.place / "log").open("a")
        self.service = subprocess.Popen(command, env=self.environment, stderr=log)

    def end(self, signal_number: signal.Signals) -> None:
        """Stops the service with a signal."""
        assert self.service
        self.service.send_signal(signal_number)
        self.service.wait()

    def runs(self) -> list[tuple[int, str, str, str | None]]:
        """Reads the slot, cause, state and report of every run."""
        database = sqlite3.connect(self.place / "jobs/.legenda/history.db")
        try:
            query = "SELECT slot, cause, state, report FROM runs ORDER BY slot"
            return database.execute(query).fetchall()
        finally:
            database.close()


def slots() -> list[int]:
    """Returns the slots of the week: every day at 0, 6, 12 and 18 o'clock local time."""
    days = [(BEGIN + dt.timedelta(days=day)).astimezone(ZONE).date() for day in range(-1, 9)]
    due = [
        dt.datetime.combine(day, dt.time(hour), tzinfo=ZONE)
        for day in days
        for hour in range(0, 24, 6)
    ]
    return [int(at.timestamp()) for at in due if BEGIN < at <= END]


def main() -> None:
    """Runs the week and checks the result."""
    with tempfile.TemporaryDirectory() as folder:
        week = Week(str(Path(sys.argv[1]).resolve()), Path(folder))
        (week.place / "jobs").mkdir()
        (week.place / "jobs/often.toml").write_text(JOB)
        rng = random.Random(26)
        signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]
        # When the service stops, as a fraction of the week, and for how many hours it stays down.
        outages = sorted((rng.uniform(0.1, 0.8), rng.uniform(1, 15)) for _ in signals)
        week.add_table()
        week.start()
        for signal_number, (share, hours) in zip(signals, outages, strict=True):
            at = BEGIN + (END - BEGIN) * share
            while week.now() < at:
                week.grow()
                time.sleep(0.05)
            week.end(signal_number)
            time.sleep(hours * 3600 / SPEED)
            week.start()
        expected = slots()
        wait_start = time.monotonic()
        while True:
            week.grow()
            done = [slot for slot, _, state, _ in week.runs() if state == "done"]
            if week.now() > END and set(expected) <= set(done):
                break
            log = (week.place / "log").read_text()
            assert time.monotonic() - wait_start < PATIENCE, f"{week.runs()}\n{log}"
            time.sleep(0.2)
        week.end(signal.SIGTERM)
        seen = [(slot, cause) for slot, cause, _, _ in week.runs() if slot <= expected[-1]]
        assert [slot for slot, _ in seen] == expected, f"{seen}\n{expected}"
        assert all(state in ("done", "waiting", "stopped") for _, _, state, _ in week.runs())
        reports = [json.loads(report) for *_, report in week.runs() if report]
        new = [report["rows_in"] - report["rows_resumed"] for report in reports]
        assert sum(n > 0 for n in new) == week.n_tables, new
        verified = subprocess.run(
            [week.binary, "verify", "s3://bucket/out"],
            env=week.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"rows_in {week.n_rows} == answers {week.n_rows}" in verified.stdout, verified.stdout
        print(f"{len(expected)} slots, {len(reports)} reports, {week.n_tables} tables;", end=" ")
        print(verified.stdout.strip())
        week.server.stop()


if __name__ == "__main__":
    main()
