"""A bucket of a local S3 server (moto, from PyPI)."""

import os
from typing import Any

import boto3
from moto.server import ThreadedMotoServer


def start() -> tuple[ThreadedMotoServer, Any, dict[str, str]]:
    """Starts a server with the bucket `bucket`.

    Returns the server, a client, and the environment variables that point Legenda to the server.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ.update(keys, AWS_DEFAULT_REGION="us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    return server, client, os.environ | {"AWS_ENDPOINT": endpoint, "AWS_REGION": "us-east-1"}
