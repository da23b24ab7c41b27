"""A page object: a page whose script fills a table after a delay, with a Next button and a cookie dialog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from jobs.errors import ServiceUnavailableError
from jobs.flights.sources.scraper.allowed import Gate

WAIT_S = 10
MAX_PAGES = 20  # in case that Next never ends
MAX_BODY = 2**20  # characters

# All cells of the page in one call: a table that changes in between would mix two states, or leave stale elements.
# null: not filled yet.
_READ = """
const [earlier] = arguments;
const warning = document.querySelector("[role=alert]:not([hidden])");
if (warning) return {failure: warning.textContent};
const table = document.querySelector("table[aria-busy=false]");
const page = document.querySelector("#page")?.textContent;
if (!table || page === earlier || !table.tBodies[0]?.rows.length) return null;
const read = (row) => [...row.cells].map((cell) => cell.textContent.trim());
return {
  page,
  url: location.href,
  updated: document.querySelector("time")?.dateTime ?? "",
  header: table.tHead?.rows.length ? read(table.tHead.rows[0]) : [],
  rows: [...table.tBodies[0].rows].map(read),
  is_last: document.querySelector("#next")?.disabled ?? true,
};
"""

# The page may replace or cover an element between finding and clicking it.
_RETRIED = (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
_ACCEPT = (By.CSS_SELECTOR, "dialog[open] #accept")
_NEXT = (By.CSS_SELECTOR, "#next:enabled")


class PageFaultError(Exception):
    """A page did not show its table. The text says why."""


@dataclass(frozen=True)
class Board:
    """What one page shows.

    Attributes:
        page: its number, as it shows it.
        url: its address.
        updated: the time of its data, RFC 3339.
        header: the texts of the columns.
        rows: the texts of the cells.
        is_last: whether there is no next page.
    """

    page: str
    url: str
    updated: str
    header: list[str]
    rows: list[list[str]]
    is_last: bool


class TablePage:
    """The page in a browser.

    Attributes:
        kind: what its rows are.
        path: where the site has it.
    """

    kind: ClassVar[str]
    path: ClassVar[str]

    def __init__(self, browser: WebDriver, gate: Gate) -> None:
        self._browser, self._gate = browser, gate
        self._wait = WebDriverWait(browser, WAIT_S, poll_frequency=0.1, ignored_exceptions=_RETRIED)

    def read_all(self, url: str) -> Iterator[Board]:
        """The page and those after it.

        Raises:
            PageFaultError: its table is not there. The pages before were yielded.
            ConfigurationError: it may not be scraped.
            ServiceUnavailableError: its server does not answer.
        """
        board = self._open(url)
        yield board
        for _ in range(MAX_PAGES - 1):
            if board.is_last:
                return
            board = self._turn(board)
            yield board

    def _open(self, url: str) -> Board:
        self._gate.check(url)
        self._gate.wait(url)
        try:
            self._browser.get(url)
        except TimeoutException as error:
            raise PageFaultError(f"the page did not load: {error.msg}") from error
        except WebDriverException as error:
            raise ServiceUnavailableError(f"{url} cannot be opened: {error.msg}") from error
        self._gate.check(self._browser.current_url)  # after redirects
        self._close_dialog()
        return self._read("")

    def _turn(self, board: Board) -> Board:
        """Go to the next page."""
        self._gate.wait(board.url)
        self._close_dialog()
        self._until(lambda browser: browser.find_element(*_NEXT).click() or True, "Next could not be clicked")
        return self._read(board.page)

    def _close_dialog(self) -> None:
        """Accept the cookies, if the page asks."""

        def accept(browser: WebDriver) -> bool:
            buttons = browser.find_elements(*_ACCEPT)
            for button in buttons:
                button.click()
            return not buttons

        self._until(accept, "the cookie dialog did not close")

    def _read(self, earlier: str) -> Board:
        """Wait until the table is filled.

        Args:
            earlier: the number of the page before.
        """
        content: dict[str, Any] = self._until(
            lambda browser: browser.execute_script(_READ, earlier), "the table was not filled"
        )
        if "failure" in content:
            raise PageFaultError(f"the page says: {content['failure']}")
        return Board(**content)

    def _until(self, condition: Callable[[WebDriver], Any], fault: str) -> Any:
        """Wait for a condition; returns what it returned."""
        try:
            return self._wait.until(condition)
        except TimeoutException as error:
            raise PageFaultError(f"{fault} within {WAIT_S} s") from error
