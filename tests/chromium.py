"""Debian's chromium, headless, as tests drive it."""

import os
import shutil
from pathlib import Path

import pytest

PATIENCE_S = 120.0


def open_browser(downloads: Path):
    """Return a browser that puts what it downloads there.

    Where chromium or its driver is missing the test is skipped, unless COMPRESS_NEEDS_BROWSER is set.
    """
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        reason = "no chromium and chromedriver here: apt-get install chromium chromium-driver"
        if os.environ.get("COMPRESS_NEEDS_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(paths[1]))
    driver.downloads = downloads
    driver.set_script_timeout(PATIENCE_S)
    return driver
