"""Work side by side: what comes next is loaded while the caller is busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetched(load: Callable[[S], T], items: Iterable[S], *, ahead: int = 1) -> Iterator[tuple[S, T]]:
    """Each item with what `load` makes of it; up to `ahead` further ones are loaded while the caller works on it."""
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
            for _, future in loading:  # after a failure, or where the caller has left off
                future.cancel()
