"""What a user sees: a sweep of two variants, MLflow's page and the report in a real browser.

Debian's chromium and chromium-driver, headless. Where they are missing the tests are skipped, unless
COMPRESS_NEEDS_BROWSER is set, as continuous integration does: then they fail. With COMPRESS_SCREENSHOTS=DIR the
pictures of ``docs/images`` are taken.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from chromium import PATIENCE_S, open_browser
from mlflow import MlflowClient

from compress.pipeline.run import Options, run
from compress.pipeline.runs import plot, read_runs
from compress.pipeline.sweep import SweepResult, sweep
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.store.document import load
from compress.tracking import Tracker, database_uri, ui
from compress.tracking.registry import promote

RECIPE = """
schema: 1
name: digits
data: {source: digits}
teacher:
  model: {resnet: {width: 16, blocks: [1, 1]}}
  train: {epochs: 3, batch_size: 64}
student: {cnn: {widths: [16, 32, 32], strides: [1, 2, 1]}}
stages:
  - distill: {epochs: 6, batch_size: 64}
  - prune: {kept_macs_fraction: 0.6, importance_batches: 4}
  - distill: {name: recover, epochs: 2, batch_size: 64}
  - quantize: {max_accuracy_drop: 0.05, min_agreement: 0.8}
  - export: {variants: [int8-x86]}
benchmark: {preset: quick, profiles: [{}]}
gates: {max_accuracy_drop: 0.3, min_speedup: 0.1}
"""
PRUNED = "stages.prune.kept_macs_fraction"
WIDE, TALL, DESK, PHONE = (1500, 1000), (1500, 1240), (1280, 1400), (390, 844)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A store after a sweep of two variants, whose best is the champion, and another recipe on the same data."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "recipe.yaml").write_text(RECIPE)
    options = Options(store=folder / "store", threads=1, reporter=Reporter(quiet=True))
    choices = [f"{PRUNED}=0.4,0.7"]
    document, outcome = sweep(folder / "recipe.yaml", choices, options, goal="smallest")
    promoted = promote("digits", store=folder / "store")
    text = RECIPE.replace("name: digits", "name: gentler")
    run(Recipe.parse(text, origin="recipe.yaml", directory=folder, overrides=[f"{PRUNED}=0.55"]), options)
    return folder / "store", document, outcome, promoted


@pytest.fixture(scope="module")
def server(swept, tmp_path_factory):
    """`compressor ui` at work, which says where to look."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ui(swept[0], port=port)
    said = tmp_path_factory.mktemp("ui") / "said"
    arguments = [sys.executable, "-m", "compress", "ui", "--store", str(swept[0]), "--port", str(port)]
    with said.open("w") as stderr:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_for(lambda: _answers(f"{command.address}/health"))
        wait_for(lambda: said.read_text().endswith("\n".join(f"  {view}" for view in command.views) + "\n"))
        yield command
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = open_browser(tmp_path_factory.mktemp("downloads"))
    yield driver
    driver.quit()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def wait_for(condition):
    """Return the first true value of a condition; how long that takes is the machine's affair."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def resize(browser, size: tuple[int, int], *, dark: bool = False) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600},
    )
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def picture(browser, name: str) -> None:
    folder = os.environ.get("COMPRESS_SCREENSHOTS")
    if folder:
        style = ".modebar-container, [title^='file:'] {display: none}"  # controls, and the path on this machine
        browser.execute_script(
            "const s = document.createElement('style'); s.textContent = arguments[0]; document.head.append(s)", style
        )
        time.sleep(2)  # animations end
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def under_toolbars(browser) -> list[list[tuple[float, float]]]:
    """Return the points of each scatter under the toolbar that its chart shows to whoever points at it."""
    return browser.execute_script(
        """return [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.data && p.data[0].type == 'scatter')
             .map(p => { const b = p.querySelector('.modebar-group').parentElement.getBoundingClientRect();
               return [...p.querySelectorAll('.scatterlayer .point')].map((e, i) => [e.getBoundingClientRect(), i])
                 .filter(([r]) => r.right > b.left && r.left < b.right && r.top < b.bottom && r.bottom > b.top)
                 .map(([_, i]) => [p.data[0].x[i], p.data[0].y[i]]) })"""
    )


def dismissed(browser) -> None:
    """Close the assistant's panel and the note above a shared view, as a user would to see more of the charts."""
    browser.execute_script(
        "for (const name of ['Close', 'close', 'Dismiss', 'Close panel'])"
        "  for (const b of document.querySelectorAll(`button[aria-label='${name}']`)) b.click();"
    )


def scatters(browser) -> list[dict]:
    """Return the points of every scatter on the page, by run name, once they are drawn."""
    return browser.execute_script(
        """return [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.data && p.data[0].type == 'scatter'
             && p.querySelectorAll('.scatterlayer .point').length == p.data[0].x.length).map(p => ({
               x: p.layout.xaxis.title.text, y: p.layout.yaxis.title.text,
               points: p.data[0].x.map((x, i) => [x, p.data[0].y[i]])}))"""
    )


def test_the_sweep_chooses_on_select_and_reads_test_for_the_chosen_one_alone(swept):
    store, document, outcome, _ = swept
    assert [row.settings for row in document.rows] == [
        ("stages.prune.kept_macs_fraction=0.4",),
        ("stages.prune.kept_macs_fraction=0.7",),
    ]
    sizes = [row.shipped.size_bytes for row in document.rows]
    assert document.chosen == sizes.index(min(sizes))
    reports = [json.loads((store / "runs" / row.shipped.run / "report.json").read_text()) for row in document.rows]
    assert [report["verdict"] is not None for report in reports] == [index == document.chosen for index in range(2)]
    roles = [json.loads(path.read_text())["facts"] for path in store.glob("artifacts/*/manifest.json")]
    tested = [facts for facts in roles if facts.get("role") == "test"]
    # The teacher, the teacher with quantization only, and the shipped file of one variant and of the other recipe.
    assert len(tested) == 4
    assert outcome.passed
    # The chosen one was not timed anew: its verdict rests on the times that it was chosen by.
    benchmark, chosen = outcome.report.benchmark, document.rows[document.chosen].shipped
    assert benchmark.shipped.latency_ms[benchmark.primary] == chosen.latency_ms
    assert benchmark.shipped.speedup[benchmark.primary] == chosen.speedup
    assert load(SweepResult, store / "sweeps" / f"{document.name}.json") == document


def test_the_shared_beginning_is_made_once(swept):
    store, document, _, _ = swept
    reports = [json.loads((store / "runs" / row.shipped.run / "report.json").read_text()) for row in document.rows]
    first, second = ({stage["name"]: stage["digest"] for stage in report["stages"]} for report in reports)
    shared = {name for name in first if first[name] == second[name]}
    assert shared == {"teacher", "teacher-static", "teacher-dynamic", "distill"}


def test_the_runs_of_a_store_are_compared_and_drawn(swept, tmp_path):
    store, document, _, _ = swept
    runs = read_runs(store, say=print)
    variants = {row.shipped.run: index == document.chosen for index, row in enumerate(document.rows)}
    (other,) = {run.name for run in runs} - set(variants)
    assert other.startswith("gentler-")
    assert runs[0].optimal  # the smallest is always in the set
    tested = {run.name: run.accuracy_test is not None for run in runs}
    assert tested == variants | {other: True}
    plot(runs, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_pipelines_are_compared_in_the_browser_without_setting_up_a_chart(swept, server, browser):
    _, document, _, _ = swept
    (view,) = server.views
    resize(browser, TALL)
    browser.get(view.partition(": ")[2])
    found = wait_for(lambda: len(drawn := scatters(browser)) >= 2 and drawn)
    latency = next(plot for plot in found if plot["x"] == "latency_p50_ms")
    size = next(plot for plot in found if plot["x"] == "size_mb")
    assert latency["y"] == size["y"] == "error_percent"
    for shipped in (row.shipped for row in document.rows):
        error = 100 * (1 - shipped.accuracy.value)
        assert any(point == pytest.approx([shipped.latency_ms, error]) for point in latency["points"])
        assert any(point == pytest.approx([shipped.size_bytes / 1e6, error]) for point in size["points"])
    # Two variants, the chosen one again with its verdict, and the other recipe.
    assert len(latency["points"]) == 4
    for chart, covered in zip(found, under_toolbars(browser), strict=True):  # what another one beats, or equals in one
        for x, y in covered:
            others = [other for other in chart["points"] if other != [x, y]]
            assert any(other[0] <= x and other[1] <= y for other in others), (chart, covered)
    axes = wait_for(
        lambda: browser.execute_script(  # a name that is cut is whole in its tooltip
            "return [...document.querySelectorAll('.parcoords .label, .axis-label-tooltip text')]"
            ".map(e => e.textContent)"
        )
    )
    assert {PRUNED, "size_mb", "latency_p50_ms", "select_accuracy"} <= {*axes}
    dismissed(browser)
    picture(browser, "mlflow-pipelines")


@pytest.mark.parametrize(
    ("view", "key", "name", "points"),
    [
        # The teacher, it quantized in two ways, and five stages; the same of all four pipelines.
        ("compress-stages", "select_accuracy", "mlflow-stages", 8),
        ("compress-pareto", "size_mb", "mlflow-pareto", 28),
    ],
)
def test_the_other_views_show_their_charts(server, browser, view, key, name, points):
    (pipelines,) = server.views
    resize(browser, WIDE)
    browser.get("about:blank")
    browser.get(pipelines.partition(": ")[2].replace("compress-pipelines", view))
    wait_for(
        lambda: (
            browser.execute_script(
                "return [...document.querySelectorAll('.js-plotly-plot')].filter("
                "p => p.data && p.data[0].x && p.querySelectorAll('.point').length == p.data[0].x.length"
                " && p.data[0].x.length >= arguments[0]).length",
                points,
            )
            >= 2
        )
    )
    assert key in browser.execute_script("return document.body.innerText")
    assert "Error loading shared view" not in browser.execute_script("return document.body.innerText")
    dismissed(browser)
    picture(browser, name)


def test_a_view_that_is_kept_has_its_charts_after_a_reload(server, browser):
    (view,) = server.views
    resize(browser, TALL)
    browser.get("about:blank")
    browser.get(view.partition(": ")[2])
    wait_for(lambda: len(scatters(browser)) >= 2)
    keep = "return [...document.querySelectorAll('button')].find(b => b.innerText == 'Override saved view')"
    wait_for(lambda: browser.execute_script(keep)).click()
    wait_for(lambda: browser.execute_script(keep) is None)
    browser.refresh()
    found = wait_for(lambda: len(drawn := scatters(browser)) >= 2 and drawn)
    assert [plot["y"] for plot in found] == ["error_percent"] * 2


def test_the_champions_file_is_downloaded_from_the_page_byte_for_byte(swept, server, browser):
    store, _, outcome, promoted = swept
    champion = MlflowClient(database_uri(store)).get_model_version_by_alias("digits", "champion")
    assert champion.run_id == promoted.run_id
    resize(browser, WIDE)
    experiment = server.views[0].partition("/experiments/")[2].partition("/")[0]
    path = f"experiments/{experiment}/runs/{promoted.run_id}/artifacts/bundle/int8-x86.onnx"
    browser.get("about:blank")
    browser.get(f"{server.address}/#/{path}?workflowType=machine_learning")
    button = wait_for(
        lambda: browser.execute_script("return document.querySelector(`button[data-component-id*='artifactview']`)")
    )
    dismissed(browser)
    picture(browser, "mlflow-champion")
    button.click()
    wait_for(lambda: [*browser.downloads.glob("*.onnx")])
    (file,) = browser.downloads.glob("*.onnx")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == promoted.sha256
    assert digest == hashlib.sha256((outcome.run_dir / "bundle" / "int8-x86.onnx").read_bytes()).hexdigest()


def test_a_pipeline_of_10000_points_is_drawn_from_a_sample_of_them(swept, server, browser):
    store, *_ = swept
    with (
        Tracker.open(store) as tracker,
        tracker.run("many", experiment="many", key="many", tags={"compress.role": "pipeline"}) as run,
    ):
        for step in range(1000):
            run.metrics({f"train/loss_{curve}": 1 / (1 + step + curve) for curve in range(10)}, step=step)
    mlflow = MlflowClient(database_uri(store))
    (logged,) = mlflow.search_runs([mlflow.get_experiment_by_name("many").experiment_id])
    assert len(mlflow.get_metric_history(logged.info.run_id, "train/loss_9")) == 1000
    resize(browser, WIDE)
    browser.get("about:blank")
    path = f"experiments/{logged.info.experiment_id}/runs/{logged.info.run_id}/model-metrics"
    browser.get(f"{server.address}/#/{path}?workflowType=machine_learning")
    drawn = wait_for(
        lambda: (
            len(
                found := browser.execute_script(
                    "return [...document.querySelectorAll('.js-plotly-plot')].filter("
                    "p => p.data && p.data.some(t => t.x && t.x.length > 1) && p.querySelector('.scatterlayer path'))"
                    ".map(p => Math.max(...p.data.map(t => (t.x || []).length)))"
                )
            )
            >= 3
            and found
        )
    )
    assert max(drawn) <= 500  # the page asks the server for a sample
    picture(browser, "mlflow-curves")


def test_the_page_is_served_to_this_machine_alone(server):
    port = int(server.address.rpartition(":")[2])
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1
    request = urllib.request.Request(f"{server.address}/api/2.0/mlflow/experiments/search?max_results=1")
    request.add_header("Host", "elsewhere.example")  # a name that someone lets point to 127.0.0.1
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value:
        assert refused.value.code == 403


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_report_fits_its_screen_and_can_be_read(swept, browser, size, dark):
    _, _, outcome, _ = swept
    resize(browser, size, dark=dark)
    browser.get((outcome.run_dir / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert contrast(browser, "--ink", "--card") > 7
    for tone in ("--soft", "--student", "--teacher", "--good", "--bad", "--stage"):
        assert contrast(browser, tone, "--card") >= 4.5, tone  # WCAG 2.2, AA
    drawings = browser.execute_script(
        "return [...document.querySelectorAll('#pareto svg')].filter(s => s.getBoundingClientRect().width > 0).length"
    )
    assert drawings == 1  # the one that was made for this width
    small = browser.execute_script(
        "return [...document.querySelectorAll('#pareto svg text')].map(t => t.getBoundingClientRect().height)"
        ".filter(h => h > 0)"
    )
    assert min(small) > 8
    picture(browser, f"report-{'phone' if size == PHONE else 'desk'}-{'dark' if dark else 'light'}")


def test_paper_shows_what_is_folded_on_the_screen(swept, browser):
    _, _, outcome, _ = swept
    resize(browser, DESK)
    browser.get((outcome.run_dir / "report.html").as_uri())
    visible = "return [...document.querySelectorAll('details > :not(summary)')].map(e => e.checkVisibility())"
    folded = browser.execute_script(visible)
    assert folded
    assert not any(folded)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert all(browser.execute_script(visible))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_report_is_walked_through_by_keyboard(swept, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    _, _, outcome, _ = swept
    resize(browser, WIDE)
    browser.get((outcome.run_dir / "report.html").as_uri())
    reached = []
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(
            browser.execute_script("const e = document.activeElement; return e.getAttribute('href') || e.tagName")
        )
    assert reached[0] == "#content"
    assert {"#pareto", "#environment", "SUMMARY", "DIV", "PRE", "report.json"} <= set(reached)


def contrast(browser, ink: str, ground: str) -> float:
    """Return the contrast of two of the page's colours (WCAG 2.2, relative luminance)."""
    lights = []
    for name in (ink, ground):
        text = browser.execute_script(
            "const e = document.createElement('i'); e.style.color = `var(${arguments[0]})`;"
            "document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return c",
            name,
        )
        channels = [int(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
