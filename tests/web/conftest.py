"""A hypercloud with one engine, and a browser; ``scripts/test-web`` installs what is needed and runs these tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Page, chromium
from tests.support.cloud import CloudProcess, over_one_engine
from tests.support.docker_engine import FakeEngine

PROJECT = Path(__file__).resolve().parents[2]
AXE = PROJECT / ".cache/web/axe.min.js"
PICTURES = PROJECT / ".cache/web/pictures"
THERE = shutil.which("chromium") is not None and AXE.exists()
# Chromium is a large thing for a machine that tests a daemon: without it nothing of this directory is collected, but
# for who asks for it by name.
collect_ignore_glob = [] if THERE or os.environ.get("HYPERCLOUD_TEST_WEB") else ["test_*.py"]


def serious(page: Page) -> list[str]:
    """What axe finds that keeps somebody from using the page."""
    page.run(f"{AXE.read_text(encoding='utf-8')}; true")
    found = page.run("axe.run(document, { resultTypes: ['violations'] }).then((one) => JSON.stringify(one.violations))")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in json.loads(found)
        if one["impact"] in {"serious", "critical"}
    ]


@pytest.fixture(scope="session")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with contextlib.closing(FakeEngine()) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    with over_one_engine(tmp_path_factory.mktemp("cloud"), engine, "local", ["local"]) as server:
        yield server


@pytest.fixture
def page(browser: str, cloud: CloudProcess) -> Iterator[Page]:
    """The page, with the administrator signed in; at the end no script has failed and no other host was asked."""
    made = Page(browser)
    try:
        made.looks()
        made.go(cloud.url)
        if not made.run("Boolean(sessionStorage.getItem('csrf'))"):
            made.fill("Sign in", username="admin", password=cloud.password)
        made.shows("admin (admin)")
        yield made
        assert made.log == []
        own = (cloud.url, cloud.url.replace("http", "ws"), "data:", "about:")
        assert [one for one in made.requested if not one.startswith(own)] == []
    finally:
        made.close()
