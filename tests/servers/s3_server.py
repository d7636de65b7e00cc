"""Runs Legenda on the sample tables in a bucket of an S3 server (moto, from PyPI).

    python tests/servers/s3_server.py target/release/legenda

The script runs the job to completion, reruns it (nothing to do), and reruns it after adding a table
(only that table is read). It then runs a query that keeps few rows (little is read), and kills and
resumes a run. `legenda verify` must pass each time. Needs the packages of `tests/src/python.rs`.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import s3_bucket

SAMPLE = Path(__file__).parents[2] / "jobs" / "examples"
JOB = """
version = 1
[task]
kind = "answer"
prompt = "{{ question }}"
[source]
paths = ["s3://bucket/tables/*.parquet"]
columns = { id = "id", text = "question", image = "image", audio = "audio" }
[output]
path = "s3://bucket/out"
"""


def main() -> None:
    """Starts the server, runs the jobs and prints the results."""
    binary = str(Path(sys.argv[1]).resolve())
    server, client, environment = s3_bucket.start()
    for path in sorted((SAMPLE / "sample").glob("*.parquet")):
        client.upload_file(str(path), "bucket", f"tables/{path.name}")
    environment |= {"AWS_ALLOW_HTTP": "true", "LEGENDA_LEASE_SECONDS": "2"}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.toml"
        job.write_text(JOB, encoding="utf-8")
        run = [binary, "run", str(job), "--progress", "none"]

        def stdout_of(*arguments: str) -> str:
            completed = subprocess.run(
                arguments, env=environment, capture_output=True, text=True, check=True
            )
            return completed.stdout

        def verify() -> None:
            print(stdout_of(binary, "verify", "s3://bucket/out").strip())

        def report(output: str) -> dict[str, Any]:
            key = f"{output}.legenda/report.json"
            body = client.get_object(Bucket="bucket", Key=key)["Body"]
            loaded: dict[str, Any] = json.loads(body.read())
            return loaded

        print(stdout_of(*run).splitlines()[0])
        verify()
        whole = report("out")["bytes_read"]
        rerun = stdout_of(*run)
        assert "\n0 rows in" in rerun, rerun

        added = SAMPLE / "sample" / "texts.parquet"
        client.upload_file(str(added), "bucket", "tables/zz-added.parquet")
        n_added = pq.ParquetFile(added).metadata.num_rows
        third = stdout_of(*run)
        read = report("out")["bytes_read"]
        print(f"a table of {n_added} rows added: {read} bytes read, {whole} by the first run")
        assert f"\n{n_added} rows in" in third, third
        assert read < whole / 2, (read, whole)
        verify()

        query = "source.query=\"SELECT * FROM source WHERE id IN ('picture-000-twemoji')\""
        filtered = ["--set", query, "--set", 'output.path="s3://bucket/filtered"']
        few = stdout_of(*run, *filtered)
        read = report("filtered")["bytes_read"]
        print(f"a query that keeps one row: {read} bytes read")
        assert few.startswith("rows_in 1 == answers 1 "), few
        assert read < whole / 2, (read, whole)
        slow = [*run, "--overwrite", "--set", "model.slots=1"]
        killed = subprocess.Popen(slow, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        print("killed and resumed:", stdout_of(*run).splitlines()[0])
        verify()
    server.stop()


if __name__ == "__main__":
    main()
