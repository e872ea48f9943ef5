"""Two servers, a browser, and pages that may neither complain nor call anybody else."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.clients.lyre_process import ROOT, LyreProcess
from tests.page.browser import find_browser
from tests.page.visit import Visit

KEY = "sk-page-0123456789abcdef"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Another server than the one of this checkout's own environment, and a place for pictures."""
    parser.addoption("--lyre", type=Path, default=ROOT / ".venv/bin/lyre", help="the `lyre` command to serve with")
    parser.addoption("--pictures", type=Path, default=None, help="folder that gets the pictures for the documents")


@pytest.fixture(scope="session")
def serve(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., LyreProcess]]:
    """`serve(LYRE_X="y")`: a server that may still load; all end with the session."""
    started: list[LyreProcess] = []

    def start(**settings: str) -> LyreProcess:
        log = tmp_path_factory.mktemp("lyre") / "stderr"
        started.append(LyreProcess(pytestconfig.getoption("lyre"), log, **settings))
        return started[-1]

    yield start
    for process in started:
        process.close()
        assert "Traceback" not in process.log


@pytest.fixture(scope="session")
def servers(serve: Callable[..., LyreProcess]) -> tuple[LyreProcess, LyreProcess]:
    """An open server and a guarded one, loading at the same time."""
    return serve(), serve(LYRE_API_KEYS=KEY, LYRE_MAX_CONCURRENCY="1", LYRE_MAX_QUEUE="0")


@pytest.fixture(scope="session")
def server(servers: tuple[LyreProcess, LyreProcess]) -> LyreProcess:
    """A server as `make serve` starts it."""
    servers[0].wait_ready()
    return servers[0]


@pytest.fixture(scope="session")
def guarded(servers: tuple[LyreProcess, LyreProcess]) -> LyreProcess:
    """A server that asks for KEY, speaks for one at a time and lets nobody wait."""
    servers[1].wait_ready()
    return servers[1]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    found = find_browser()
    # No sandbox: it cannot be had as root, nor in most containers, and only our own page is opened.
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=found.executable, env={**os.environ, **found.environment}, args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """`visit(url, ...)`: the page in a fresh browser profile, watched until the test's end."""
    visits: list[Visit] = []

    def open_page(url: str, **options: object) -> Visit:
        context = browser.new_context(viewport={"width": 1000, "height": 1080}, **options)  # type: ignore[arg-type]
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        visits.append(Visit(context.new_page(), url))
        return visits[-1]

    yield open_page
    for opened in visits:
        opened.page.context.close()
        opened.check()


@pytest.fixture
def opened(visit: Callable[..., Visit], server: LyreProcess) -> Visit:
    """The open server's page, ready to speak."""
    return visit(server.url).wait_ready()


@pytest.fixture
def page(opened: Visit) -> Page:
    """The same, as Playwright drives it."""
    return opened.page
