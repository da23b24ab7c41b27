"""k-means as BigQuery ML's options describe it, by scikit-learn, kept as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.cluster import KMeans
from sklearn.metrics import davies_bouldin_score
from threadpoolctl import threadpool_limits

from jobs.zones.engine import StatementError

Matrix = npt.NDArray[np.float64]

# The defaults of CREATE MODEL … MODEL_TYPE='KMEANS'. There is no early stop here: training goes on until no point
# changes its cluster.
_DEFAULTS: dict[str, Any] = {
    "MODEL_TYPE": None,
    "NUM_CLUSTERS": 8,
    "KMEANS_INIT_METHOD": "RANDOM",
    "KMEANS_INIT_COL": None,
    "STANDARDIZE_FEATURES": True,
    "DISTANCE_TYPE": "EUCLIDEAN",
    "MAX_ITERATIONS": 300,
}
_INITS = {"KMEANS++": "k-means++", "RANDOM": "random"}
_SEED = 0
_STARTS = 10


class Model(msgspec.Struct, frozen=True):
    """A trained model: k centroids of n features.

    `centroids` (k × n), distances and `mean_squared_distance` are in the space of the training: features less `mean`
    over `scale`, both n long.
    """

    features: list[str]
    mean: list[float]
    scale: list[float]
    centroids: list[list[float]]
    iterations: int
    duration_ms: int
    mean_squared_distance: float
    davies_bouldin_index: float

    def places(self) -> Matrix:
        """The centroids in the features' own units, k × n."""
        places: Matrix = np.array(self.centroids) * np.array(self.scale) + np.array(self.mean)
        return places

    def distances(self, table: pa.Table) -> Matrix:
        """Euclidean distance of each row to each centroid, rows × k."""
        points = (_matrix(table, self.features) - np.array(self.mean)) / np.array(self.scale)
        columns = [np.sqrt(((points - centroid) ** 2).sum(axis=1)) for centroid in np.array(self.centroids)]
        return np.column_stack(columns)


def train(table: pa.Table, given: Mapping[str, Any]) -> Model:
    """Train a model on all columns of a table, as CREATE MODEL with these options does.

    Raises:
        StatementError: an option is unknown or not possible here, or the table has too few points.
    """
    if unknown := given.keys() - _DEFAULTS.keys():
        raise StatementError(f"CREATE MODEL: the local engine knows no option {', '.join(sorted(unknown))}.")
    options = _DEFAULTS | dict(given)
    if options["MODEL_TYPE"] != "KMEANS" or options["DISTANCE_TYPE"] != "EUCLIDEAN":
        raise StatementError(
            "CREATE MODEL: the local engine has MODEL_TYPE='KMEANS' with DISTANCE_TYPE='EUCLIDEAN' only."
        )
    mark = options["KMEANS_INIT_COL"]
    features = [name for name in table.column_names if name != mark]
    points = _matrix(table, features)
    # Rows have no order, but k-means++ draws by position: sorted, the same points make the same model.
    order = np.lexsort(points.T)
    points = points[order]
    clusters = options["NUM_CLUSTERS"]
    if len(np.unique(points, axis=0)) < clusters:
        raise StatementError(
            f"CREATE MODEL: {len(points):,} rows have fewer than NUM_CLUSTERS={clusters} distinct points. Is the "
            "reference file the right one, and is SERVICE_AREA its area?"
        )
    mean, scale = np.zeros(len(features)), np.ones(len(features))
    if options["STANDARDIZE_FEATURES"]:
        mean, deviation = points.mean(axis=0), points.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
    standardised = (points - mean) / scale
    start: Any = _INITS.get(options["KMEANS_INIT_METHOD"])
    if options["KMEANS_INIT_METHOD"] == "CUSTOM":
        start = standardised[table[mark].to_numpy(zero_copy_only=False).astype(bool)[order]]
        if len(start) != clusters:
            raise StatementError(f"CREATE MODEL: {mark} marks {len(start)} rows, NUM_CLUSTERS is {clusters}.")
    elif start is None:
        raise StatementError(f"CREATE MODEL: KMEANS_INIT_METHOD={options['KMEANS_INIT_METHOD']!r} is unknown.")
    began = time.monotonic()
    search = KMeans(
        clusters,
        init=start,
        n_init=_STARTS if isinstance(start, str) else 1,
        max_iter=options["MAX_ITERATIONS"],
        tol=0,
        random_state=_SEED,
    )
    # More threads wait for each other longer than they work, on a machine that has other things to do.
    with threadpool_limits(1):
        found = search.fit(standardised)
    return Model(
        features=features,
        mean=mean.tolist(),
        scale=scale.tolist(),
        centroids=found.cluster_centers_.tolist(),
        iterations=int(found.n_iter_),
        duration_ms=round(1_000 * (time.monotonic() - began)),
        mean_squared_distance=float(found.inertia_) / len(points),
        davies_bouldin_index=float(davies_bouldin_score(standardised, found.labels_)),
    )


def predict(model: Model, table: pa.Table) -> pa.Table:
    """The table with CENTROID_ID and NEAREST_CENTROIDS_DISTANCE (nearest first) before its columns.

    Raises:
        StatementError: a feature is missing or not a number.
    """
    distances = model.distances(table)
    rows, clusters = distances.shape
    order = np.argsort(distances, axis=1, kind="stable")
    nearest = pa.StructArray.from_arrays(
        [pa.array(order.ravel() + 1), pa.array(np.take_along_axis(distances, order, axis=1).ravel())],
        ["CENTROID_ID", "DISTANCE"],
    )
    offsets = pa.array(np.arange(rows + 1) * clusters, pa.int32())
    columns = {
        "CENTROID_ID": pa.array(order[:, 0] + 1),
        "NEAREST_CENTROIDS_DISTANCE": pa.ListArray.from_arrays(offsets, nearest),
    }
    return pa.table(columns | {name: table[name] for name in table.column_names})


def centroids(model: Model) -> pa.Table:
    """The answer of ML.CENTROIDS: one row per centroid and feature, in the feature's own unit."""
    places = model.places()
    rows = [
        {"centroid_id": row + 1, "feature": feature, "numerical_value": float(places[row, column])}
        for row in range(len(places))
        for column, feature in enumerate(model.features)
    ]
    return pa.Table.from_pylist(rows)


def evaluation(model: Model) -> pa.Table:
    """The answer of ML.EVALUATE, of the training data."""
    return pa.table(
        {
            "davies_bouldin_index": [model.davies_bouldin_index],
            "mean_squared_distance": [model.mean_squared_distance],
        }
    )


def training_info(model: Model) -> pa.Table:
    """The answer of ML.TRAINING_INFO, but for the last iteration only: scikit-learn keeps no others."""
    return pa.table(
        {
            "training_run": [0],
            "iteration": [model.iterations],
            "loss": [model.mean_squared_distance],
            "duration_ms": [model.duration_ms],
        }
    )


def _matrix(table: pa.Table, features: list[str]) -> Matrix:
    """Columns as a matrix, rows × features."""
    if missing := [name for name in features if name not in table.column_names]:
        raise StatementError(f"The rows have no column {', '.join(missing)}, which the model was trained on.")
    columns = []
    for name in features:
        try:
            column = table[name].cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StatementError(f"Column {name} is not a number: {error}") from error
        if column.null_count:
            raise StatementError(f"Column {name} has NULLs, which the local engine does not impute.")
        columns.append(column.to_numpy())
    return np.column_stack(columns).astype(np.float64)
