"""Opens the web page of `legenda schedule` in headless Chromium, as a user does.

    python tests/servers/browser.py target/release/legenda target/browser

The page must list the jobs and hide why a job file is invalid. A button must start a job, the page
must show the progress of the run, and the report of the run must open with its images. Screenshots
are saved to the folder. Needs Chromium and ChromeDriver (Debian's packages `chromium` and
`chromium-driver`) and the packages of `tests/src/python.rs`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SAMPLE = Path(__file__).parents[2] / "jobs" / "examples" / "sample"
TOKEN = "the token of this test"
PATIENCE = 120
JOB = """
version = 1
task = { kind = "answer", prompt = "{{ question }}" }
source = { paths = ["table.parquet"], columns = { id = "id", image = "image" } }
output = { path = "out", columns = ["id", "question"], span_rows = 64 }
model = { slots = 1, threads = 1 }
[schedule]
cron = "30 3 * * *"
time_zone = "Europe/Berlin"
"""


def open_browser(profile: str) -> webdriver.Chrome:
    """Starts headless Chromium without background network requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for switch in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(switch)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def main() -> None:
    """Starts the service and tests its web page."""
    binary, screenshots = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2])
    screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as profile:
        jobs = Path(folder)
        sample = pq.read_table(SAMPLE / "pictures.parquet", columns=["id", "image"]).to_pylist()
        # One cell is not an image, and no two rows are equal.
        sample[7]["image"] = b"not an image"
        rows = [
            row | {"id": f"{row['id']}-{time}", "question": f"What is shown? {time}"}
            for time in range(60)
            for row in sample
        ]
        pq.write_table(pa.Table.from_pylist(rows), jobs / "table.parquet")
        (jobs / "nightly.toml").write_text(JOB)
        (jobs / "broken.toml").write_text("version = 1\n")
        command = [binary, "schedule", folder, "--listen", "127.0.0.1:0", "--token-env", "TOKEN"]
        service = subprocess.Popen(
            command, env=os.environ | {"TOKEN": TOKEN}, stderr=subprocess.PIPE, text=True
        )
        browser = None
        try:
            assert service.stderr
            address = next(
                found[1] for line in service.stderr if (found := re.match(r"page at (\S+)", line))
            )
            browser = open_browser(profile)
            check_page(browser, address, len(rows), screenshots)
        finally:
            if browser:
                browser.quit()
            service.terminate()
            service.wait()


def check_page(browser: webdriver.Chrome, address: str, n_rows: int, screenshots: Path) -> None:
    """Navigates from the list of jobs to the report of a run."""

    def until(what: str, condition: Callable[[webdriver.Chrome], object]) -> None:
        # The page may change or reload between two checks.
        wait = WebDriverWait(browser, PATIENCE, 0.1, ignored_exceptions=[WebDriverException])
        wait.until(condition, f"timed out: {what}")

    def body() -> str:
        return str(browser.execute_script("return document.body ? document.body.innerText : ''"))

    def click(selector: str) -> None:
        def clicked(_: webdriver.Chrome) -> bool:
            browser.find_element(By.CSS_SELECTOR, selector).click()
            return True

        until(f"{selector} is clicked", clicked)

    browser.get(address)
    until("both jobs are listed", lambda _: "nightly.toml" in body() and "broken.toml" in body())
    assert "daily at 03:30" in body() and "Times are in Europe/Berlin" in body(), body()
    assert "invalid job file" in body() and "missing field" not in body(), body()

    # Without the token, no run starts.
    start = "[formaction='/jobs/nightly.toml/start']"
    token = browser.find_element(By.NAME, "token")
    token.send_keys("another")
    click(start)
    until("the token is refused", lambda _: "token is missing or wrong" in body())
    browser.get(address)
    browser.find_element(By.NAME, "token").send_keys(TOKEN)
    click(start)
    until("the page of the run is shown", lambda _: browser.current_url.endswith("/runs/1"))

    # The page updates itself during the run.
    browser.execute_script("document.body.dataset.seen = 'once'")
    seen: set[int] = set()

    def progress(_: webdriver.Chrome) -> bool:
        for bar in browser.find_elements(By.TAG_NAME, "progress"):
            done = int(float(bar.get_attribute("value") or 0))
            if 0 < done < n_rows and done not in seen:
                browser.save_screenshot(str(screenshots / "progress.png"))
                seen.add(done)
        return len(seen) >= 2 or "done" in body()

    until("progress is shown", progress)
    assert len(seen) >= 2, f"progress was not shown during the run: {seen}"
    until("the run is done", lambda _: browser.find_elements(By.CSS_SELECTOR, ".state.done"))
    until("the report link is shown", lambda _: browser.find_elements(By.CSS_SELECTOR, "a.report"))
    assert browser.execute_script("return document.body.dataset.seen") == "once", (
        "the page was reloaded"
    )
    browser.get(address)
    assert f"{n_rows:,}".replace(",", "\u202f") in body(), body()
    browser.save_screenshot(str(screenshots / "jobs.png"))

    browser.get(f"{address}runs/1")
    click("a.report")
    until("the report is shown", lambda _: "Sample rows" in body())
    images = browser.find_elements(By.TAG_NAME, "img")
    widths = [int(image.get_property("naturalWidth") or 0) for image in images]
    assert len(widths) >= 24 and min(widths) > 0, widths
    for text in ("media_unknown_format", "Rejected rows", "peak memory"):
        assert text in body(), text
    browser.save_screenshot(str(screenshots / "report.png"))
    browser.execute_script("arguments[0].scrollIntoView()", images[-24])
    browser.save_screenshot(str(screenshots / "report-rows.png"))
    entries = browser.get_log("browser")
    severe = [entry for entry in entries if entry["level"] == "SEVERE" and "401" not in str(entry)]
    assert not severe, severe
    print(f"{len(widths)} images in the report, progress seen {len(seen)} times")


main()
