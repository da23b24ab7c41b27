"""k-means with the options of BigQuery ML, computed by scikit-learn. A model can be stored as JSON."""

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

# The defaults of CREATE MODEL … MODEL_TYPE='KMEANS'. There is no early stop: training ends when no point changes its
# cluster, or after MAX_ITERATIONS.
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

    `centroids` (k × n), distances and `mean_squared_distance` are in standardised units: (feature − `mean`) / `scale`.
    `mean` and `scale` have length n.
    """

    features: list[str]
    mean: list[float]
    scale: list[float]
    centroids: list[list[float]]
    iterations: int
    duration_ms: int
    mean_squared_distance: float
    davies_bouldin_index: float

    def unscale_centroids(self) -> Matrix:
        """Return the centroids in the units of the features, k × n."""
        centroids: Matrix = np.array(self.centroids) * np.array(self.scale) + np.array(self.mean)
        return centroids

    def compute_distances(self, table: pa.Table) -> Matrix:
        """Return the Euclidean distance from each row to each centroid, rows × k, in standardised units."""
        points = (_to_matrix(table, self.features) - np.array(self.mean)) / np.array(self.scale)
        columns = [np.sqrt(((points - centroid) ** 2).sum(axis=1)) for centroid in np.array(self.centroids)]
        return np.column_stack(columns)


def train(table: pa.Table, options: Mapping[str, Any]) -> Model:
    """Train a model on all columns of a table, like CREATE MODEL with these options.

    Raises:
        StatementError: an option is unknown or unsupported, or the table has too few points.
    """
    if unknown := options.keys() - _DEFAULTS.keys():
        raise StatementError(f"CREATE MODEL: the local engine does not support {', '.join(sorted(unknown))}.")
    options = _DEFAULTS | dict(options)
    if options["MODEL_TYPE"] != "KMEANS" or options["DISTANCE_TYPE"] != "EUCLIDEAN":
        raise StatementError(
            "CREATE MODEL: the local engine supports only MODEL_TYPE='KMEANS' with DISTANCE_TYPE='EUCLIDEAN'."
        )
    init_column = options["KMEANS_INIT_COL"]
    features = [name for name in table.column_names if name != init_column]
    points = _to_matrix(table, features)
    # k-means++ samples by position, and rows have no order. Sort them, so that the same points give the same model.
    order = np.lexsort(points.T)
    points = points[order]
    clusters = options["NUM_CLUSTERS"]
    if bool(len(points)) + (points[1:] != points[:-1]).any(axis=1).sum() < clusters:
        raise StatementError(
            f"CREATE MODEL: {len(points):,} rows have fewer than NUM_CLUSTERS={clusters} distinct points. Check the "
            "reference file, and that SERVICE_AREA covers its city."
        )
    mean, scale = np.zeros(len(features)), np.ones(len(features))
    if options["STANDARDIZE_FEATURES"]:
        mean, deviation = points.mean(axis=0), points.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
    standardised = (points - mean) / scale
    init: Any = _INITS.get(options["KMEANS_INIT_METHOD"])
    if options["KMEANS_INIT_METHOD"] == "CUSTOM":
        init = standardised[table[init_column].to_numpy(zero_copy_only=False).astype(bool)[order]]
        if len(init) != clusters:
            raise StatementError(f"CREATE MODEL: {init_column} marks {len(init)} rows, but NUM_CLUSTERS is {clusters}.")
    elif init is None:
        raise StatementError(f"CREATE MODEL: KMEANS_INIT_METHOD={options['KMEANS_INIT_METHOD']!r} is unknown.")
    started = time.monotonic()
    kmeans = KMeans(
        clusters,
        init=init,
        n_init=_STARTS if isinstance(init, str) else 1,
        max_iter=options["MAX_ITERATIONS"],
        tol=0,
        random_state=_SEED,
    )
    # On a busy machine, several threads spend more time waiting for each other than computing.
    with threadpool_limits(1):
        fitted = kmeans.fit(standardised)
    return Model(
        features=features,
        mean=mean.tolist(),
        scale=scale.tolist(),
        centroids=fitted.cluster_centers_.tolist(),
        iterations=int(fitted.n_iter_),
        duration_ms=round(1_000 * (time.monotonic() - started)),
        mean_squared_distance=float(fitted.inertia_) / len(points),
        davies_bouldin_index=float(davies_bouldin_score(standardised, fitted.labels_)),
    )


def predict(model: Model, table: pa.Table) -> pa.Table:
    """Return the table with two columns in front: CENTROID_ID and NEAREST_CENTROIDS_DISTANCE (nearest first).

    Raises:
        StatementError: a feature is missing or not a number.
    """
    distances = model.compute_distances(table)
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


def list_centroids(model: Model) -> pa.Table:
    """Return the result of ML.CENTROIDS: one row for each centroid and feature, in the unit of the feature."""
    centroids = model.unscale_centroids()
    rows = [
        {"centroid_id": row + 1, "feature": feature, "numerical_value": float(centroids[row, column])}
        for row in range(len(centroids))
        for column, feature in enumerate(model.features)
    ]
    return pa.Table.from_pylist(rows)


def evaluate(model: Model) -> pa.Table:
    """Return the result of ML.EVALUATE on the training data."""
    return pa.table(
        {
            "davies_bouldin_index": [model.davies_bouldin_index],
            "mean_squared_distance": [model.mean_squared_distance],
        }
    )


def describe_training(model: Model) -> pa.Table:
    """Return the result of ML.TRAINING_INFO for the last iteration; scikit-learn keeps no others."""
    return pa.table(
        {
            "training_run": [0],
            "iteration": [model.iterations],
            "loss": [model.mean_squared_distance],
            "duration_ms": [model.duration_ms],
        }
    )


def _to_matrix(table: pa.Table, features: list[str]) -> Matrix:
    """Return columns as a matrix, rows × features."""
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
