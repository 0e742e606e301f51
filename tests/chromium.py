"""The browser that the tests of pages drive."""

import os
import shutil

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

LOG = ("--enable-logging=stderr", "--log-level=0")
"""For errors of a page to be on stderr."""


def chromium() -> str:
    """Its path; a test that has none fails with CI set, and is skipped otherwise."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Chromium is not installed")
    return found
