"""Runs Legenda on the sample tables in a bucket of an S3 server (moto, from PyPI).

    python tests/s3_server.py target/release/legenda

The job runs to its end, again (nothing is to be done), once more when a table was added (only
that is read), and is killed and resumed; a query that keeps few rows reads little. `legenda
verify` must pass each time. Needs what `tests/tests/external/s3_server.rs` brings.
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

SAMPLE = Path(__file__).parent.parent / "jobs" / "examples"
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
    """Starts the server, runs the jobs, and says what was seen."""
    binary = str(Path(sys.argv[1]).resolve())
    server, client, environment = s3_bucket.start()
    for path in sorted((SAMPLE / "sample").glob("*.parquet")):
        client.upload_file(str(path), "bucket", f"tables/{path.name}")
    environment |= {"AWS_ALLOW_HTTP": "true", "LEGENDA_LEASE_SECONDS": "2"}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.toml"
        job.write_text(JOB, encoding="utf-8")
        run = [binary, "run", str(job), "--progress", "none"]

        def told(*arguments: str) -> str:
            done = subprocess.run(
                arguments, env=environment, capture_output=True, text=True, check=True
            )
            return done.stdout

        def verify() -> None:
            print(told(binary, "verify", "s3://bucket/out").strip())

        def report(output: str) -> dict[str, Any]:
            key = f"{output}.legenda/report.json"
            body = client.get_object(Bucket="bucket", Key=key)["Body"]
            read: dict[str, Any] = json.loads(body.read())
            return read

        print(told(*run).splitlines()[0])
        verify()
        whole = report("out")["bytes_read"]
        again = told(*run)
        assert "\n0 rows in" in again, again

        added = SAMPLE / "sample" / "texts.parquet"
        client.upload_file(str(added), "bucket", "tables/zz-added.parquet")
        n_added = pq.ParquetFile(added).metadata.num_rows
        third = told(*run)
        read = report("out")["bytes_read"]
        print(f"a table of {n_added} rows added: {read} bytes read, of the first run {whole}")
        assert f"\n{n_added} rows in" in third, third
        assert read < whole / 2, (read, whole)
        verify()

        query = "source.query=\"SELECT * FROM source WHERE id IN ('picture-000-twemoji')\""
        filtered = ["--set", query, "--set", 'output.path="s3://bucket/filtered"']
        few = told(*run, *filtered)
        read = report("filtered")["bytes_read"]
        print(f"a query that keeps a row: {read} bytes read")
        assert few.startswith("rows_in 1 == answers 1 "), few
        assert read < whole / 2, (read, whole)
        slow = [*run, "--overwrite", "--set", "model.slots=1"]
        killed = subprocess.Popen(slow, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        print("killed; then:", told(*run).splitlines()[0])
        verify()
    server.stop()


if __name__ == "__main__":
    main()
