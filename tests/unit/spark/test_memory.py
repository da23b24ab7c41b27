"""A heap that does not fit the container is refused before Java starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ConfigurationError
from jobs.spark import memory


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container of 2 GiB, of which 500 MiB are in use."""
    limit, stat = tmp_path / "memory.max", tmp_path / "memory.stat"
    limit.write_text(f"{2 * 2**30}\n")
    stat.write_text(f"anon {500 * 2**20}\nfile {900 * 2**20}\n")
    monkeypatch.setattr(memory, "_CGROUPS", ((limit, stat, "anon"),))
    return limit


@pytest.mark.parametrize("size", ["1g", "1036m", "1G"])
def test_a_heap_that_fits_is_accepted(container: Path, size: str) -> None:
    memory.check_memory(size, "raise it")


@pytest.mark.parametrize("size", ["1037m", "2g", "4g"])
def test_a_heap_beyond_the_limit_is_refused_with_the_remedy(container: Path, size: str) -> None:
    text = rf"{size} does not fit: the limit of this container is 2048 MiB, 500 .*at most 1036m, or raise it\."
    with pytest.raises(ConfigurationError, match=text):
        memory.check_memory(size, "raise it")


@pytest.mark.parametrize("text", ["max", str(2**63 - 4096)])
def test_without_a_limit_the_machine_counts(container: Path, text: str) -> None:
    container.write_text(text)
    memory.check_memory("1m", "raise it")
    with pytest.raises(ConfigurationError, match="the memory of this machine"):
        memory.check_memory("90000g", "raise it")


@pytest.mark.parametrize("size", ["", "2", "2gb", "-1g", "1.5g"])
def test_what_is_no_amount_of_memory_is_refused(size: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not an amount of memory"):
        memory.check_memory(size, "raise it")
