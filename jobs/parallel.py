"""Load the next items in threads while the caller processes the current one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetch(load: Callable[[S], T], items: Iterable[S], *, ahead: int = 1) -> Iterator[tuple[S, T]]:
    """Yield each item with the result of `load`. Up to `ahead` further items are loaded meanwhile."""
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        loading: deque[tuple[S, Future[T]]] = deque()
        try:
            for item in items:
                loading.append((item, pool.submit(load, item)))
                if len(loading) > ahead:
                    ready, future = loading.popleft()
                    yield ready, future.result()
            for ready, future in loading:
                yield ready, future.result()
        finally:
            for _, future in loading:  # after a failure, or when the caller stopped early
                future.cancel()
