"""The type of functions that show the progress of long work."""

from __future__ import annotations

from collections.abc import Callable

# Arguments: the title of the work, the amount that is done, and the total amount.
Progress = Callable[[str, int, int], object]
