"""Headless Chromium for tests: one window, everything it complains of and everything it asks the network for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars",
)  # fmt: skip
SEVERE = ("SEVERE", "WARNING")


def missing() -> str:
    """Why no browser can be started here; empty where one can."""
    if not any(shutil.which(name) for name in BROWSERS):
        return f"no browser is installed: none of {', '.join(BROWSERS)} is found"
    return "" if shutil.which("chromedriver") else "chromedriver is not installed (Debian: chromium-driver)"


MARKS = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
"""What holds for every test that opens a browser."""


@contextmanager
def window() -> Iterator[webdriver.Chrome]:
    """A fresh browser with a profile of its own, and nothing of selenium's that downloads one."""
    browser = next(path for path in map(shutil.which, BROWSERS) if path)
    driver = shutil.which("chromedriver")
    assert driver
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = browser
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chrome = webdriver.Chrome(options=options, service=Service(executable_path=driver))
        try:
            yield chrome
        finally:
            chrome.quit()


def appear(chrome: webdriver.Chrome, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
    """The size of the page's window in CSS pixels, and what the reader's system prefers."""
    phone = width < 600
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    # A page hears of a change with its next frame, which may come after the next command: wait for two.
    chrome.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def load(chrome: webdriver.Chrome, page: Path) -> None:
    """Open a file."""
    complaints(chrome), requests(chrome)
    chrome.get(page.resolve().as_uri())


def complaints(chrome: webdriver.Chrome) -> list[str]:
    """Errors and warnings of the console since it was last asked, breaches of the security policy among them."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] in SEVERE]


def requests(chrome: webdriver.Chrome) -> list[str]:
    """The addresses that were asked for since it was last asked, but for data inside the page."""
    events = (json.loads(entry["message"])["message"] for entry in chrome.get_log("performance"))
    asked = (one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent")
    return [address for address in asked if not address.startswith(("data:", "about:"))]
