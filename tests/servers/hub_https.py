"""Tests a Hub over HTTPS: a model is downloaded only from a server with a trusted certificate.

Run `python tests/servers/hub_https.py BINARY` with the packages of `src/python.rs`.
"""

import datetime
import hashlib
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

MODEL = Path(__file__).parents[1] / "references" / "bundles" / "llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Files of at least this size are served from a second address, as on the real Hub.
LARGE_BYTES = 50_000


class Authority:
    """A certificate authority, which a client may trust or not."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        certificate = self._builder(self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.path = folder / "authority.pem"
        self.path.write_bytes(self._signed(certificate))

    def _builder(self, subject: x509.Name, key: object) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, host: str) -> ssl.SSLContext:
        """Returns the TLS context of a server that identifies itself as `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        names = [x509.DNSName(host)]
        if host == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = self._builder(name, key).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        path = self.folder / f"{host}.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(secret + self._signed(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class Hub(BaseHTTPRequestHandler):
    """The Hub's API over the files of one model."""

    second = ""

    def do_GET(self) -> None:
        """Serves the file list, redirects and files."""
        path = self.path.split("?")[0]
        if path.startswith("/api/models/owner/model/revision/"):
            files = [file for file in sorted(MODEL.rglob("*")) if file.is_file()]
            siblings = [
                {
                    "rfilename": file.relative_to(MODEL).as_posix(),
                    "size": file.stat().st_size,
                    "blobId": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            self._say(200, json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
            return
        file = MODEL / path.split(f"/{COMMIT}/")[-1]
        content = file.read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT}
        if path.startswith("/owner/") and len(content) >= LARGE_BYTES:
            target = f"{self.second}/second/{COMMIT}/{file.relative_to(MODEL).as_posix()}"
            self._say(302, b"", {**headers, "Location": target})
        else:
            self._say(200, content, headers)

    def _say(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Disables the request log."""


def serve(context: ssl.SSLContext | None, second: str = "") -> int:
    """Starts a server on a free port and returns the port."""
    handler = type("Hub", (Hub,), {"second": second})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def pull(binary: str, home: Path, endpoint: str, trusted: Path | None) -> tuple[int, str]:
    """Downloads the model to a new cache; returns the exit code and the output."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY") and not name.startswith(("HF_", "SSL_CERT"))
    }
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    if trusted:
        environment["SSL_CERT_FILE"] = str(trusted)
    completed = subprocess.run(
        [binary, "models", "pull", "hf://owner/model"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return completed.returncode, completed.stdout + completed.stderr


def expect(condition: bool, expectation: str, output: str) -> None:
    """Exits with an error if the condition is false."""
    if not condition:
        sys.exit(f"expected: {expectation}; output:\n{output}")


def main(binary: str) -> None:
    """Downloads from servers with valid and invalid certificates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        own_context = authority.context("localhost")
        other_context = authority.context("elsewhere.invalid")
        second = serve(own_context)
        secure = f"https://localhost:{serve(own_context, f'https://127.0.0.1:{second}')}"

        code, output = pull(binary, folder / "known", secure, authority.path)
        expect(code == 0, "a known certificate is trusted", output)
        fetched = list((folder / "known").rglob(f"snapshots/{COMMIT}/onnx/model.onnx"))
        expect(len(fetched) == 1, "the graph was downloaded", output)
        whole = (MODEL / "onnx" / "model.onnx").read_bytes()
        expect(fetched[0].read_bytes() == whole, "the graph is complete", output)

        code, output = pull(binary, folder / "unknown", secure, None)
        expect(code != 0 and "certificate" in output, "an unknown certificate is refused", output)
        expect("SSL_CERT_FILE" in output, "the error says what to do", output)

        named = f"https://localhost:{serve(other_context)}"
        code, output = pull(binary, folder / "named", named, authority.path)
        expect(
            code != 0 and "certificate" in output, "another host's certificate is refused", output
        )

        plain_http = f"http://127.0.0.1:{serve(None)}"
        redirecting = f"https://localhost:{serve(own_context, plain_http)}"
        code, output = pull(binary, folder / "leading", redirecting, authority.path)
        fetched = list((folder / "leading").rglob("*.onnx"))
        expect(code != 0 and not fetched, "a redirect away from https is refused", output)
    print("downloaded over HTTPS with a trusted certificate, refused three times")


if __name__ == "__main__":
    main(sys.argv[1])
