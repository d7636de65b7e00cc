"""Checks the pages of `legenda schedule` and the reports of runs in headless Chromium.

    python tests/pages/check.py target/release/legenda node_modules/axe-core target/pages

axe-core must find nothing serious on any page, in light and dark, on a phone, a tablet and a
desktop; the contrast of every text must be at least 4.5, and no page may be wider than its screen.
Focus and selection must survive a refresh, the token is asked for once, and a run is stopped only
after a question. Screenshots are saved to the folder, from which `docs/make_screenshots.py` makes
those of the documents.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from session import Session, open_browser

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "jobs" / "examples" / "sample"
PATIENCE_S = 120
WIDTHS = (390, 768, 1280)
SCHEMES = ("light", "dark")
CONTRAST_MIN = 4.5
IMPACTS = ("serious", "critical")
SCHEDULE = '[schedule]\ncron = "30 3 * * *"\ntime_zone = "Europe/Berlin"\n'
JOBS = {
    "captions.toml": """
version = 1
task = { kind = "caption" }
source = { paths = ["pictures.parquet"], columns = { id = "id", image = "image" } }
output = { path = "out/captions", columns = ["id"] }
"""
    + SCHEDULE,
    "questions.toml": """
version = 1
task = { kind = "answer", prompt = "{{ question }}" }
source = { paths = ["long.parquet"], columns = { id = "id", text = "question", image = "image" } }
output = { path = "out/questions", columns = ["id", "question"], span_rows = 64 }
model = { slots = 1, threads = 1 }
""",
    "more-questions.toml": """
version = 1
task = { kind = "answer", prompt = "{{ question }}" }
source = { paths = ["long.parquet"], columns = { id = "id", text = "question", image = "image" } }
output = { path = "out/more-questions", columns = ["id", "question"], span_rows = 64 }
model = { slots = 1, threads = 1 }
""",
    "missing.toml": """
version = 1
task = { kind = "caption" }
source = { paths = ["nowhere.parquet"], columns = { id = "id", image = "image" } }
output = { path = "out/missing" }
[schedule]
cron = "*/15 8 * * MON-FRI"
time_zone = "Europe/Berlin"
""",
    "similar.toml": """
version = 1
task = { kind = "embed" }
source = { paths = ["texts.parquet"], columns = { id = "id", text = "text" } }
model = { bundle = "minilm" }
output = { path = "out/similar", columns = ["id"] }
""",
    "spoken.toml": """
version = 1
task = { kind = "answer", prompt = "{{ question }}" }
source = { paths = ["spoken.parquet"], columns = { id = "id", image = "image", audio = "audio" } }
output = { path = "out/spoken", columns = ["id", "question"] }
""",
    "broken.toml": "version = 1\n",
}
TEXTS = (
    "a red apple",
    "two red apples",
    "an apple that is red",
    "a boat on the sea",
    "a small boat",
    "the sea at night",
    "a dog and a cat",
    "two dogs",
)


def write_jobs(folder: Path) -> None:
    """Writes the tables and the jobs of the test."""
    pictures = pq.read_table(SAMPLE / "pictures.parquet", columns=["id", "image"]).to_pylist()
    pictures[7]["image"] = b"not an image"
    pq.write_table(pa.Table.from_pylist(pictures[:40]), folder / "pictures.parquet")
    rows = [
        row | {"id": f"{row['id']}-{turn}", "question": f"What is shown? {turn}"}
        for turn in range(60)
        for row in pictures
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "long.parquet")
    spoken = pq.read_table(SAMPLE / "questions.parquet").slice(0, 60)
    pq.write_table(spoken, folder / "spoken.parquet")
    texts = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    pq.write_table(pa.Table.from_pylist(texts), folder / "texts.parquet")
    shutil.copytree(ROOT / "tests" / "references" / "bundles" / "minilm", folder / "minilm")
    for name, job in JOBS.items():
        (folder / name).write_text(job)


class Checker:
    """A browser with the findings so far."""

    def __init__(self, browser: webdriver.Chrome, axe: str, shots: Path) -> None:
        self.browser, self.axe, self.shots = browser, axe, shots
        self.problems: list[str] = []
        self.contrasts: list[float] = []
        self.n_views = 0

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Waits for a condition; the page may change between two looks."""

        def holds(_: webdriver.Chrome) -> object:
            return condition()

        wait = WebDriverWait(self.browser, PATIENCE_S, 0.1, ignored_exceptions=[WebDriverException])
        wait.until(holds, f"timed out: {what}")

    def script(self, code: str, *arguments: object) -> object:
        """Runs JavaScript in the page."""
        return self.browser.execute_script(code, *arguments)

    def text(self) -> str:
        """Returns the visible text of the page."""
        return str(self.script("return document.body ? document.body.innerText : ''"))

    def find(self, selector: str) -> webdriver.remote.webelement.WebElement:
        """Returns an element."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def look(self, width: int, scheme: str) -> None:
        """Sets the screen."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def check(self, name: str, url: str) -> None:
        """Checks a page at all widths and in both schemes."""
        self.look(WIDTHS[0], SCHEMES[0])
        # The sandbox of a report stops the timers of axe-core too.
        is_report = url.endswith("/report")
        self.browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": is_report})
        self.browser.get(url)
        if "h1" not in str(self.script("return document.querySelector('h1') && 'h1'")):
            self.problems.append(f"{name}: no heading")
        self.script(self.axe)
        for width in WIDTHS:
            for scheme in SCHEMES:
                self.look(width, scheme)
                self.check_view(f"{name} at {width} in {scheme}", scheme)

    def check_view(self, name: str, scheme: str) -> None:
        """Checks the page as it is shown. A dark page differs from a light one in its colors."""
        self.n_views += 1
        options: dict[str, object] = {"resultTypes": ["violations", "incomplete", "passes"]}
        if scheme != SCHEMES[0]:
            options["runOnly"] = ["color-contrast"]
        found = self.browser.execute_async_script(
            """
            const [options, done] = arguments;
            axe.run(document, options).then(done, (error) => done(String(error)));
            """,
            options,
        )
        assert isinstance(found, dict), f"{name}: {found}"
        for finding in found["violations"]:
            targets = [node["target"] for node in finding["nodes"]][:3]
            line = f"{name}: {finding['impact']}: {finding['id']}: {finding['help']} {targets}"
            if finding["impact"] in IMPACTS:
                self.problems.append(line)
        for finding in found["incomplete"]:
            if finding["id"] == "color-contrast":
                nodes = [(node["target"], node["any"][0]["message"]) for node in finding["nodes"]]
                self.problems.append(f"{name}: contrast is unknown: {nodes[:3]}")
        for rule in found["passes"]:
            if rule["id"] == "color-contrast":
                for node in rule["nodes"]:
                    ratio = float(node["any"][0]["data"]["contrastRatio"] or 0)
                    self.contrasts.append(ratio)
                    if ratio < CONTRAST_MIN:
                        self.problems.append(f"{name}: contrast {ratio} of {node['target']}")
        sizes = self.script(
            "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
        )
        if sizes[0] > sizes[1]:
            self.problems.append(f"{name}: {sizes[0]} pixels wide on a screen of {sizes[1]}")

    def shoot(self, name: str, url: str, width: int, scheme: str, height_max: int) -> None:
        """Saves a screenshot of the top of a page."""
        self.look(width, scheme)
        if self.browser.current_url != url:
            self.browser.get(url)
        height = int(self.script("return document.documentElement.scrollHeight"))
        metrics = {"width": width, "height": min(height, height_max)}
        metrics |= {"deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.browser.save_screenshot(str(self.shots / f"{name}.png"))


def check_refresh(checker: Checker, session: Session) -> None:
    """A refresh must keep focus, selection and the nodes of rows that stay."""
    checker.look(1280, "light")
    checker.browser.get(session.address)
    checker.script(
        """
        const link = document.querySelector("[data-key='run-1'] a");
        link.focus();
        window.focused = link;
        const name = document.querySelector("[data-key='job-captions.toml'] a").firstChild;
        getSelection().setBaseAndExtent(name, 0, name, 8);
        window.changes = 0;
        const live = document.getElementById("live");
        new MutationObserver((seen) => { window.changes += seen.length; }).observe(
            live, { subtree: true, childList: true, characterData: true, attributes: true });
        """
    )
    n_rows = "return document.querySelectorAll('.runs tbody tr').length"
    before = int(str(checker.script(n_rows)))
    session.press("/jobs/similar.toml/start")
    checker.until("a row is added", lambda: int(str(checker.script(n_rows))) == before + 1)
    seen = checker.script(
        """
        return [document.activeElement === window.focused, window.focused.isConnected,
            getSelection().toString(), window.changes]
        """
    )
    assert isinstance(seen, list)
    assert seen[:3] == [True, True, "captions"], seen
    # Whole tables are not replaced: a row with its cells, and numbers that changed.
    assert 0 < seen[3] < 100, seen


def check_token(checker: Checker, session: Session, run: int) -> None:
    """The token is asked for once, and a stop is confirmed."""
    browser = checker.browser
    browser.get(session.address)
    assert "The service printed it when it started" in checker.text()
    checker.find("#token").send_keys("another")
    checker.find("[formaction='/token']").click()
    checker.until("it is refused", lambda: "not the token" in checker.find("#status").text)
    # An action with a wrong token leads to a page that asks again.
    checker.find("#token").clear()
    checker.find("#token").send_keys("another")
    checker.find("[formaction='/jobs/captions.toml/start']").click()
    checker.until("an error is shown", lambda: "did not work" in checker.text())
    assert checker.find("a[href='/jobs/captions.toml']").text == "the job"
    browser.get(session.address)
    checker.find("#token").send_keys(session.token)
    checker.find("[formaction='/token']").click()
    checker.until("the tab knows it", lambda: "This tab knows the token" in checker.text())
    reason = "missing field"
    checker.until("the reason of the broken job is shown", lambda: reason in checker.text())

    browser.get(f"{session.address}runs/{run}")
    assert "This tab knows the token" in checker.text()
    stop = f"[popovertarget='stop-{run}']"
    checker.find(stop).click()
    question = checker.find(f"#stop-{run}")
    assert question.is_displayed() and "Stop run" in question.text
    time.sleep(2.5)
    assert question.is_displayed(), "a refresh closed the question"
    checker.find(f"#stop-{run} [popovertargetaction='hide']").click()
    assert not question.is_displayed()
    assert session.state_of(run) == "running"
    checker.find(stop).click()
    checker.find(f"#stop-{run} [formaction='/runs/{run}/stop']").click()
    checker.until("it is stopped", lambda: checker.find(".state").text == "stopped")
    checker.find("#forget").click()
    assert checker.find("#token").is_displayed()


def main() -> None:
    """Starts the service, makes runs of every kind and checks every page."""
    binary, axe = Path(sys.argv[1]).resolve(), Path(sys.argv[2]) / "axe.min.js"
    shots = Path(sys.argv[3])
    shots.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="legenda-") as folder,
        tempfile.TemporaryDirectory() as profile,
    ):
        jobs = Path(folder) / "jobs"
        jobs.mkdir()
        write_jobs(jobs)
        with Session(binary, jobs) as session:
            names = ("captions", "missing", "similar", "spoken", "captions")
            runs = [(name, session.run_to_end(f"{name}.toml")) for name in names]
            long_run = session.start("questions.toml")
            browser = open_browser(profile)
            try:
                checker = Checker(browser, axe.read_text(), shots)
                check_all(checker, session, runs, long_run)
            finally:
                browser.quit()
    assert not checker.problems, "\n".join(sorted(set(checker.problems)))
    print(f"{checker.n_views} views, lowest contrast {min(checker.contrasts)}")


def check_all(
    checker: Checker, session: Session, runs: list[tuple[str, int]], long_run: int
) -> None:
    """Checks every page, then what a person does on them."""
    address = session.address
    live = f"{address}runs/{long_run}"
    checker.browser.get(live)
    is_live = "return document.querySelectorAll('.latest li').length > 2"
    checker.until("answers of the active run are shown", lambda: checker.script(is_live))
    checker.shoot("run", live, 1000, "light", 620)
    pages = {
        "jobs": address,
        "job": f"{address}jobs/captions.toml",
        "broken job": f"{address}jobs/broken.toml",
        "active run": live,
        "error": f"{address}nowhere",
    }
    for name, run in runs:
        pages[f"run {run} of {name}"] = f"{address}runs/{run}"
        if name != "missing":
            pages[f"report {run} of {name}"] = f"{address}runs/{run}/report"
    reports = {name: f"{address}runs/{run}/report" for name, run in reversed(runs)}
    for name, url in pages.items():
        checker.check(name, url)
    checker.browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    for scheme in SCHEMES:
        checker.shoot(f"jobs-{scheme}", address, 1280, scheme, 900)
    checker.shoot("jobs-phone", address, 390, "light", 1100)
    checker.shoot("job", pages["job"], 1000, "light", 700)
    checker.shoot("report", reports["captions"], 1080, "light", 1500)
    checker.shoot("report-neighbours", reports["similar"], 1080, "dark", 1500)
    check_refresh(checker, session)
    # The first long run may have ended by now.
    check_token(checker, session, session.start("more-questions.toml"))
    entries = checker.browser.get_log("browser")
    severe = [entry for entry in entries if entry["level"] == "SEVERE"]
    # The statuses of the wrong tokens and of the missing page.
    severe = [entry for entry in severe if not any(n in str(entry) for n in ("401", "404"))]
    assert not severe, severe


main()
