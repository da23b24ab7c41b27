"""Which pages may be scraped, and how fast: an allow-list of hosts, and robots.txt (RFC 9309)."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Collection
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from jobs.errors import ConfigurationError, ServiceUnavailableError

AGENT = "datastream-flights"
TIMEOUT_S = 10
MAX_ROBOTS = 500 * 1024  # bytes; RFC 9309, section 2.5


def check_host(url: str, hosts: Collection[str]) -> None:
    """
    Raises:
        ConfigurationError: the host of a URL is not in the list.
    """
    host = urlsplit(url).hostname
    if host not in hosts:
        known = ", ".join(sorted(hosts))
        raise ConfigurationError(
            f"{url} was not scraped: {host} is not in the list of allowed hosts ({known}). The terms of use of many "
            "sites forbid automated reading. If this site allows it, add its host to FLIGHTS_SCRAPE_HOSTS in .env."
        )


class Gate:
    """Checks each page before it is opened, and waits as long as its robots.txt demands."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = frozenset(hosts)
        self._robots: dict[str, RobotFileParser] = {}
        self._due: dict[str, float] = {}

    def check(self, url: str) -> None:
        """
        Raises:
            ConfigurationError: the host is not in the list, or its robots.txt disallows the page.
            ServiceUnavailableError: robots.txt cannot be read.
        """
        check_host(url, self._hosts)
        if not self._read_robots(url).can_fetch(AGENT, url):
            raise ConfigurationError(f"{url} was not scraped: {_site(url)}/robots.txt disallows it for {AGENT}.")

    def wait(self, url: str) -> None:
        """Wait until the site's crawl delay since the last request is over."""
        delay = float(self._read_robots(url).crawl_delay(AGENT) or 0)
        now = time.monotonic()
        due = max(now, self._due.get(_site(url), now))
        self._due[_site(url)] = due + delay
        time.sleep(due - now)

    def _read_robots(self, url: str) -> RobotFileParser:
        site = _site(url)
        if site not in self._robots:
            robots = RobotFileParser()
            robots.parse(_fetch(f"{site}/robots.txt").decode("utf-8", errors="replace").splitlines())
            self._robots[site] = robots
        return self._robots[site]


def _site(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _fetch(url: str) -> bytes:
    """A robots.txt. One that does not exist (4xx) allows everything; one that is forbidden, nothing."""
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})  # noqa: S310 - hosts of the list only
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            content: bytes = answer.read(MAX_ROBOTS)
            return content
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return b"User-agent: *\nDisallow: /"
        if 400 <= error.code < 500:
            return b""
        raise ServiceUnavailableError(f"{url} answers {error.code}: nothing was scraped. Try again later.") from error
    except OSError as error:
        raise ServiceUnavailableError(
            f"{url} does not answer ({error}): nothing was scraped. Start the profile: docker compose --profile "
            "flights up -d --wait (Docker), or make local-up VERTICAL=flights (without Docker)."
        ) from error
