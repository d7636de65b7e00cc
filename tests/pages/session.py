"""A running `legenda schedule`, and a browser to look at its pages."""

import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self

from selenium import webdriver

TOKEN = "the token of this test"
PATIENCE_S = 120
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def open_browser(profile: str) -> webdriver.Chrome:
    """Starts headless Chromium without background network requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


class Session:
    """A service over a folder of jobs, which ends with the `with` block."""

    token = TOKEN

    def __init__(self, binary: Path, jobs: Path) -> None:
        command = [str(binary), "schedule", str(jobs), "--parallel", "2"]
        command += ["--listen", "127.0.0.1:0", "--token-env", "TOKEN"]
        environment = os.environ | {"TOKEN": TOKEN}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        lines = iter(self.process.stderr.readline, "")
        self.address = next(
            found[1] for line in lines if (found := re.match(r"page at (\S+)", line))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def press(self, path: str) -> str:
        """Presses a button, and returns where it leads."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(self.address + path[1:], method="POST", headers=headers)
        with urllib.request.urlopen(request) as answer:
            return str(answer.url)

    def start(self, job: str) -> int:
        """Starts a run of a job and returns its number."""
        return int(self.press(f"/jobs/{job}/start").rsplit("/", 1)[1])

    def state_of(self, run: int) -> str:
        """Returns the state of a run."""
        with urllib.request.urlopen(f"{self.address}runs/{run}") as answer:
            found = re.search(r'class="state (\w+)"', answer.read().decode())
        assert found
        return found[1]

    def run_to_end(self, job: str) -> int:
        """Runs a job to its end and returns the number of the run."""
        run = self.start(job)
        until = time.monotonic() + PATIENCE_S
        while self.state_of(run) in ("waiting", "running"):
            assert time.monotonic() < until, f"{job} does not end"
            time.sleep(0.05)
        return run
