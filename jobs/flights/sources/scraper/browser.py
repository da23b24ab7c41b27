"""A headless Chromium: of a Selenium server, or of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.sources.scraper.allowed import AGENT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
LOAD_S = 30


@contextmanager
def open_browser(selenium_url: str) -> Iterator[WebDriver]:
    """
    Args:
        selenium_url: a Selenium server; empty: the Chromium of this machine.

    Raises:
        ConfigurationError: this machine has no Chromium, or no driver for it.
        ServiceUnavailableError: the server does not answer, or the browser does not start.
    """
    options = _make_options(is_remote=bool(selenium_url))
    try:
        browser = webdriver.Remote(selenium_url, options=options) if selenium_url else _start(options)
    except (WebDriverException, OSError) as error:
        where = f"The Selenium server {selenium_url}" if selenium_url else "Chromium"
        # As text, a WebDriverException ends with the stack of the driver.
        reason = (error.msg if isinstance(error, WebDriverException) else None) or str(error)
        raise ServiceUnavailableError(f"{where} cannot start a browser: {reason.strip()}") from error
    except Exception as error:
        # A server that is down raises an error of urllib3, which Selenium uses.
        if selenium_url and type(error).__module__.startswith("urllib3"):
            raise ServiceUnavailableError(f"The Selenium server {selenium_url} does not answer: {error}") from error
        raise
    try:
        browser.implicitly_wait(0)  # waits are explicit
        browser.set_page_load_timeout(LOAD_S)
        yield browser
    finally:
        browser.quit()


def _make_options(*, is_remote: bool) -> webdriver.ChromeOptions:
    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")  # /dev/shm has 64 MB in a container
    options.add_argument(f"--user-agent={AGENT}")
    # Chromium refuses to run as root with its sandbox, and in a container, which has no user namespaces for it.
    if is_remote or os.getuid() == 0:
        options.add_argument("--no-sandbox")
    options.ignore_local_proxy_environment_variables()
    return options


def _start(options: webdriver.ChromeOptions) -> WebDriver:
    # With both paths given, Selenium Manager is never asked, and so downloads nothing.
    browser, driver = (next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS))
    if browser is None or driver is None:
        missing = BROWSERS[0] if browser is None else DRIVERS[0]
        raise ConfigurationError(
            f"There is no {missing} on the PATH. Install both (Debian: apt install chromium "
            "chromium-driver), or set FLIGHTS_SELENIUM_URL in .env to a Selenium server."
        )
    options.binary_location = browser
    return webdriver.Chrome(options=options, service=Service(driver))
