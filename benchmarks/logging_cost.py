"""What logging to MLflow costs a pipeline: the events of a finished run, logged again into an empty store.

    python benchmarks/logging_cost.py compress-store/runs/<pipeline> [--repeats 5] [--out FILE]
    python benchmarks/logging_cost.py --points 10000

Two costs are told. ``waited_s`` is how long the pipeline's own thread is held up: every call of the tracker, its
opening (MLflow's import, a new database) and its closing. ``cpu_s`` is the processor time of the process, the
delivering thread included: where training keeps all cores busy, it is the upper bound of what the run gets longer by.
Both are compared with the seconds of the very attempt whose events are logged, from its report: an attempt that reused
its stages logged less and took less. Every repeat is a fresh process, so that each pays for MLflow's import.

With ``--points`` a pipeline of that many points is logged, served as `compressor ui` serves it, and the request that
its page makes for a chart is timed. Run it on a quiet machine.
"""

import argparse
import json
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from compress.benchmark.environment import NoiseProbe, describe
from compress.tracking import Run, Tracker, ui
from compress.tracking.journal import Line, read

LIMIT_SHARE, LIMIT_S = 0.01, 8.0
CURVES = 10


def log_again(events: list[Line], files: Path, store: Path) -> dict[str, float]:
    """Log events into a new store as the pipeline did, and return the seconds that it took."""
    cpu_s, waited = time.process_time(), Waited()
    with waited.measure():
        tracker = Tracker.open(store)
    runs: dict[str, Run] = {}
    for event in events:
        with waited.measure():
            _log(event, tracker, runs, files)
    with waited.measure():
        tracker.close(timeout_s=600)
    return {"waited_s": waited.seconds, "cpu_s": time.process_time() - cpu_s}


class Waited:
    """Seconds spent inside ``measure``."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        started_s = time.monotonic()
        yield
        self.seconds += time.monotonic() - started_s


def _log(event: Line, tracker: Tracker, runs: dict[str, Run], files: Path) -> None:
    identity = event["run"]
    if event["do"] == "start":
        parent = None if event["parent"] is None else runs[event["parent"]]
        experiment = event["experiment"] if parent is None else None
        runs[identity] = tracker.run(
            event["name"],
            experiment=experiment,
            parent=parent,
            key="again" if parent is None else None,
            tags=event["tags"],
        )
    elif event["do"] == "log":
        points = event.get("metrics", {})
        curves = {key: value for key, value in points.items() if "/" in key}
        if curves:
            runs[identity].metrics(curves, step=event["step"])
        runs[identity].headline({key: value for key, value in points.items() if key not in curves})
        runs[identity].params(event.get("params", {}))
        runs[identity].tags(event.get("tags", {}))
    elif event["do"] == "artifact":
        path = files / Path(event["files"][0]).name
        if path.is_file():
            runs[identity].artifact(path, event["folder"])
    elif event["do"] == "end":
        runs[identity].__exit__(None, None, None)


def cost_of_run(run_dir: Path, *, repeats: int) -> dict[str, Any]:
    """Return what logging costs a finished run; its newest attempt is taken."""
    report = json.loads((run_dir / "report.json").read_text())
    store = run_dir.parents[1]
    journals = sorted(store.glob(f"tracking/*/{run_dir.name}.*/events.ndjson"), key=lambda path: path.stat().st_mtime)
    if not journals:
        raise SystemExit(f"{store} has no journal of {run_dir.name}")
    events = [event for event, _ in read(journals[-1])]
    files = {path.name: path for path in run_dir.rglob("*") if path.is_file()}
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            flat = Path(folder) / "files"
            flat.mkdir()
            for name, path in files.items():
                (flat / name).write_bytes(path.read_bytes())
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                found.append(fresh.submit(log_again, events, flat, Path(folder) / "store").result())
    run_s = report["seconds"]
    median = {key: statistics.median(entry[key] for entry in found) for key in found[0]}
    return {
        "pipeline": run_dir.name,
        "events": len(events),
        "stages_reused": sum(stage["reused"] for stage in report["stages"]),
        "run_s": run_s,
        **median,
        "waited_share": median["waited_s"] / run_s,
        "cpu_share": median["cpu_s"] / run_s,
        "limits": {"share": LIMIT_SHARE, "digits_s": LIMIT_S},
        "repeats": found,
    }


def cost_of_points(count: int) -> dict[str, Any]:
    """Return the seconds until a pipeline of many points is in MLflow, and of the request for one of its charts."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        started_s = time.monotonic()
        with Tracker.open(store) as tracker, tracker.run("many", experiment="many", key="many") as run:
            for step in range(count // CURVES):
                run.metrics({f"train/loss_{curve}": 1 / (1 + step + curve) for curve in range(CURVES)}, step=step)
        logged_s = time.monotonic() - started_s
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ui(store, port=port)
        server = subprocess.Popen(
            command.arguments, env=command.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(f"{command.address}/health")
            body = json.dumps({"experiment_ids": ["1"], "max_results": 1}).encode()
            answer = _seconds(f"{command.address}/api/2.0/mlflow/runs/search", body)[1]
            identity = json.loads(answer)["runs"][0]["info"]["run_id"]
            query = f"run_ids={identity}&metric_key=train/loss_0&max_results=320"
            chart = f"{command.address}/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?{query}"
            times = [_seconds(chart)[0] for _ in range(11)]
        finally:
            server.terminate()
            server.wait()
    return {"points": count, "logged_s": logged_s, "chart_request_s": statistics.median(times[1:]), "first_s": times[0]}


def _seconds(url: str, body: bytes | None = None) -> tuple[float, bytes]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    started_s = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read()
    return time.monotonic() - started_s, content


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            _seconds(url)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    """Measure and print, or write, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a finished run directory in its store")
    parser.add_argument("--points", type=int, help="log and serve this many points instead")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if (arguments.run is None) == (arguments.points is None):
        parser.error("name a run directory, or --points")
    probe = NoiseProbe()
    if arguments.points is not None:
        result = cost_of_points(arguments.points)
    else:
        result = cost_of_run(arguments.run.absolute(), repeats=arguments.repeats)
    result |= {"degraded": probe.noise().reasons(), "environment": asdict(describe(seed=0))}
    text = json.dumps(result, indent=1) + "\n"
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
