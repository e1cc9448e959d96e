"""A PySpark job that brings its own Spark: which handwritten digits are taken for which?

    python examples/job_digits.py                       a standalone Spark of its own: a master and two workers
    python examples/job_digits.py --master local[2]     one JVM: quicker to start

Spark prepares the pictures; `from_spark` puts them into the stores; tasks cross-validate a dozen candidates; a pool of
actors, each of which has learnt once, labels the pictures that were kept back (`map_batches` with a class); `to_spark`
gives Spark the answers. Data: 1,797 digits of 8 x 8 pixels (UCI, by way of scikit-learn).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import DataFrame, SparkSession

import sparkray as ray
from sparkray import RayContext, init_spark_on_local, init_spark_standalone, stop_spark_standalone

FOLDS = 3
QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.sql.shuffle.partitions": "2"}

Candidate = tuple[str, dict[str, Any]]
CANDIDATES: list[Candidate] = [
    *(("nearest neighbours", {"n_neighbors": number}) for number in (1, 3, 5, 9)),
    *(("support vectors", {"C": weight, "gamma": 0.001}) for weight in (0.3, 1, 3, 10)),
    *(("logistic regression", {"C": weight, "max_iter": 200}) for weight in (0.001, 0.01)),
    *(("random forest", {"n_estimators": trees, "random_state": 0}) for trees in (50, 100)),
]

RESULT_SQL = """
    select label as digit, count(*) as pictures, sum(int(answer = label)) as correct,
           round(100 * avg(int(answer = label)), 1) as percent,
           array_join(sort_array(collect_set(case when answer <> label then string(answer) end)), ', ') as taken_for
    from answers group by label order by label
"""


def main() -> None:
    args = parse_arguments()
    with spark_session(args.master) as spark:
        pictures = prepare(spark)
        with RayContext(spark, object_store_memory="128m"):
            known = ray.data.from_spark(pictures.filter("part > 0").repartition(4))
            new = ray.data.from_spark(pictures.filter("part = 0").repartition(4))
            print(f"{known.count()} pictures to learn from, {new.count()} to label")
            (kind, settings), right = best_candidate(known)
            print(f"the best of {len(CANDIDATES)}: {kind} {settings}, {right:.1%} right in {FOLDS} folds")
            answers = new.map_batches(
                Reader, fn_constructor_args=[kind, settings, known], batch_format="pandas", concurrency=2
            )
            answers.to_spark(spark).createOrReplaceTempView("answers")
            spark.sql(RESULT_SQL).show(truncate=False)


def prepare(spark: SparkSession) -> DataFrame:
    """A row per picture: its number, its pixels as one array, what it shows, and one of four parts."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = [(number, list(map(float, image.ravel()))) for number, image in enumerate(digits.images)]
    spark.createDataFrame(rows, "picture int, pixels array<double>").createOrReplaceTempView("pictures")
    spark.createDataFrame(list(enumerate(digits.target.tolist())), "picture int, label int").createOrReplaceTempView(
        "labels"
    )
    return spark.sql(
        "select picture, pixels, label, pmod(hash(picture), 4) part from pictures join labels using (picture)"
    ).cache()


def build(kind: str, settings: dict[str, Any]) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    kinds: dict[str, Any] = {
        "nearest neighbours": KNeighborsClassifier,
        "support vectors": SVC,
        "logistic regression": LogisticRegression,
        "random forest": RandomForestClassifier,
    }
    return kinds[kind](**settings)


def table_of(dataset: Any) -> tuple[Any, Any]:
    """Pixels and labels, in the order of the pictures."""
    import numpy as np

    frame = dataset.to_pandas().sort_values("picture")
    return np.stack(frame.pixels), frame.label.to_numpy()


@ray.remote
def trial(candidate: Candidate, fold: int, known: Any) -> float:
    """How many of a fold's labels are right, by a model that has learnt from the others."""
    pixels, labels = table_of(known)
    kept_back = [number % FOLDS == fold for number in range(len(labels))]
    learnt = [not one for one in kept_back]
    model = build(*candidate).fit(pixels[learnt], labels[learnt])
    return float(model.score(pixels[kept_back], labels[kept_back]))


def best_candidate(known: Any) -> tuple[Candidate, float]:
    running = [[trial.remote(candidate, fold, known) for fold in range(FOLDS)] for candidate in CANDIDATES]
    right = [sum(ray.get(folds)) / FOLDS for folds in running]
    best = max(range(len(CANDIDATES)), key=right.__getitem__)
    return CANDIDATES[best], right[best]


class Reader:
    """In an actor of a pool: it learns when it is made, then labels batch after batch."""

    def __init__(self, kind: str, settings: dict[str, Any], known: Any) -> None:
        self.model = build(kind, settings).fit(*table_of(known))

    def __call__(self, batch: Any) -> Any:
        import numpy as np

        answers = self.model.predict(np.stack(batch.pixels)) if len(batch) else []
        return batch[["picture", "label"]].assign(answer=np.asarray(answers, dtype="int32"))


@contextmanager
def spark_session(master: str) -> Iterator[SparkSession]:
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if master == "own":
        sc = init_spark_standalone(num_executors=2, executor_cores=1, executor_memory="1g", conf=QUIET)
    elif master.startswith("local["):
        cores = master[len("local[") : -1]
        sc = init_spark_on_local(cores if cores == "*" else int(cores), conf=QUIET)
    else:
        sc = init_spark_standalone(num_executors=2, executor_cores=1, executor_memory="1g", master=master, conf=QUIET)
    sc.setLogLevel("ERROR")
    try:
        yield SparkSession(sc)
    finally:
        sc.stop()
        stop_spark_standalone()  # if it is ours


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--master", default="own", help="local[n], spark://host:port, or own: started for this job")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
