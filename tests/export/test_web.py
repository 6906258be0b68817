"""Bundles in Debian's chromium: transformers.js and ONNX Runtime Web, from npm, answer as the bundle does."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import text_zoo
import torch
from bundle_zoo import answers, image_bundle
from chromium import open_browser

from compress.export.manifest import Manifest
from compress.export.package import package
from compress.export.session import Session
from compress.loss import GuidedLoss
from compress.models import HuggingFace
from compress.report.card import _session as usage
from compress.stages.create import Create
from compress.stages.export import Export
from compress.stages.quantize import Quantize
from compress.stages.train import Train

TRANSFORMERS = "@huggingface/transformers@4.3.2"
RUNTIME = "onnxruntime-web@1.31.0-dev.20260914-8d85527a0"  # what that release of transformers.js is built with
TEXTS = ["a great and lovely film", "the meal was dreadful", "very sad and grim", "quite a happy day"]

pytestmark = pytest.mark.slow


class Site:
    """A folder that is served to this machine, and a browser that looks at it."""

    def __init__(self, folder: Path, browser, address: str) -> None:
        self.folder, self.browser, self.address = folder, browser, address

    def run(self, script: str, *arguments):
        """Return what an asynchronous function's body returns in the page; its error as an AssertionError."""
        body = (
            "const [script, ...rest] = [...arguments], done = rest.pop();"
            "const AsyncFunction = (async () => {}).constructor;"
            "new AsyncFunction('given', script)(rest).then(value => done({value}), error => done({error: `${error}`}))"
        )
        found = self.browser.execute_async_script(body, script, *arguments)
        assert "error" not in found, found["error"]
        return found["value"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that tells nobody."""

    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if shutil.which("npm") is None:
        (pytest.fail if os.environ.get("COMPRESS_NEEDS_BROWSER") else pytest.skip)("no npm here")
    folder = tmp_path_factory.mktemp("site")
    for place, name in (("transformers", TRANSFORMERS), ("ort", RUNTIME)):
        (folder / place).mkdir()
        command = ["npm", "pack", "--silent", "--pack-destination", folder, name]
        packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()[-1]
        shutil.unpack_archive(folder / packed, folder / place)
    (folder / "index.html").write_text("<!doctype html><title>compress</title>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = open_browser(tmp_path_factory.mktemp("downloads"))
    address = f"http://127.0.0.1:{server.server_port}"
    browser.get(f"{address}/index.html")
    yield Site(folder, browser, address)
    browser.quit()
    server.shutdown()
    server.server_close()


@pytest.fixture
def encoder(make_context, tmp_path):
    """The bundle of a small BERT that tells good words from bad ones, in float and in int8."""
    torch.manual_seed(0)
    folder = text_zoo.make_bert(tmp_path / "bert")
    data = text_zoo.review_data(kind="label", count=240)
    task = text_zoo.text_task(folder, data)
    context = replace(make_context(), task=task, data=data, loss=GuidedLoss(preset="hinton"))
    created = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    trained = Train(epochs=8, batch_size=10, optimizer="adamw", learning_rate=3e-3).run(created, *context)
    context = replace(context, teacher=trained)
    quantized = Quantize(mode="dynamic", min_agreement=0.5).run(trained, *context)
    return Export(variants=["int8-x86", "fp32"]).run(quantized, *context).path


@pytest.mark.parametrize("file", ["int8-x86.onnx", "fp32.onnx"])
def test_transformers_js_answers_texts_as_the_bundle_does(site, encoder, tmp_path, file):
    bundle = tmp_path / "bundle"
    shutil.copytree(encoder, bundle)
    told = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(told | {"primary": file}))
    name = f"model-{file.removesuffix('.onnx')}"
    load = package(bundle, site.folder / name, layout="transformers.js", name="reviews")
    script = f"""
        const {{env, pipeline}} = await import("/transformers/package/dist/transformers.min.js");
        Object.assign(env, {{allowLocalModels: true, allowRemoteModels: false, localModelPath: "/"}});
        env.useBrowserCache = false;
        env.backends.onnx.wasm.wasmPaths = "/ort/package/dist/";
        const classify = {load};
        return await classify(given[0]);
    """
    found = site.run(script, TEXTS)
    expected = answers(bundle, *TEXTS)
    assert [answer["label"] for answer in found] == [label for label, _ in expected]
    assert len({label for label, _ in expected}) == 2
    assert [answer["score"] for answer in found] == pytest.approx([chance for _, chance in expected], abs=1e-3)


def test_onnx_runtime_web_runs_the_file_as_the_card_says(site, tmp_path):
    bundle = image_bundle(tmp_path / "bundle")
    manifest = Manifest.read(bundle)
    shutil.copyfile(bundle / manifest.primary, site.folder / manifest.primary)
    (code,) = re.findall(r"```js\n(.*?)```", "\n".join(usage(manifest)), re.DOTALL)
    _, _, body = code.partition('"onnxruntime-web";')
    script = f"""
        const ort = await import("/ort/package/dist/ort.wasm.bundle.min.mjs");
        ort.env.wasm.wasmPaths = "/ort/package/dist/";
        const image = Float32Array.from(given[0]);
        {body}
        return [...outputs.logits.data];
    """
    pixels = np.array([[[[1.5, -0.5]]]], np.float32)
    assert site.run(script, pixels.ravel().tolist()) == pytest.approx(Session(bundle / manifest.primary)(pixels)[0][0])
