"""Runs Legenda on the sample tables in a bucket of an S3 server (moto, from PyPI).

    python tests/s3_server.py target/release/legenda

The job runs to its end, again (nothing is to be done), and is killed and resumed; `legenda verify`
must pass each time. Needs `moto[server]==5.1.22`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

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
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ.update(keys, AWS_DEFAULT_REGION="us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    for path in sorted((SAMPLE / "sample").glob("*.parquet")):
        client.upload_file(str(path), "bucket", f"tables/{path.name}")
    environment = os.environ | {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "LEGENDA_LEASE_SECONDS": "2",
    }
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

        print(told(*run).splitlines()[0])
        verify()
        again = told(*run)
        assert "\n0 rows in" in again, again
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
