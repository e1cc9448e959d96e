"""Will it rain in Seattle tomorrow? Four years of weather through Spark, sparkray and back.

    make demo                                    two executors on this machine
    make demo ARGS="--master local[2]"           one JVM: quicker to start

Spark reads and prepares the days; `from_spark` puts them into the stores of the executors; tasks cross-validate twenty
candidates; an actor for each kind of model holds the best of its kind; the best of all predicts 2015, which none has
seen; `to_spark` hands its predictions to Spark SQL. Data: NOAA's daily summaries, as vega_datasets ships them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import demo_models as models
import demo_plot
import pyspark
from demo_models import Candidate
from pyspark.sql import DataFrame, SparkSession
from vega_datasets import local_data

import sparkray as ray
from sparkray import RayContext

BEGAN = time.perf_counter()

FEATURES_SQL = """
    with days as (
        select to_date(date, 'yyyy/MM/dd') day, double(precipitation) rain, double(temp_max) warmest,
               double(temp_min) coldest, double(wind) wind, int(double(precipitation) > 0) wet
        from weather
    )
    select day, year(day) year, rain, warmest, coldest, wind, wet,
           warmest - coldest                                         as spread,
           lag(wet) over by_day                                      as wet_before,
           sum(wet) over week                                        as wet_days,
           avg(rain) over week                                       as rain_of_week,
           warmest - lag(warmest) over by_day                        as warming,
           wind - lag(wind) over by_day                              as freshening,
           sin(2 * pi() * dayofyear(day) / 365.25)                   as season_sin,
           cos(2 * pi() * dayofyear(day) / 365.25)                   as season_cos,
           lead(wet) over by_day                                     as wet_tomorrow
    from days
    window by_day as (order by day), week as (order by day rows 6 preceding)
"""

RESULT_SQL = """
    select coalesce(date_format(day, 'MM MMMM'), 'all of 2015')      as month,
           count(*)                                                  as days,
           sum(wet_tomorrow)                                         as rain_came,
           sum(int(chance >= 0.5))                                   as rain_forecast,
           round(100 * avg(int(int(chance >= 0.5) = wet_tomorrow)))  as right_percent,
           round(100 * avg(int(wet = wet_tomorrow)))                 as like_today_percent
    from forecast group by rollup(date_format(day, 'MM MMMM')) order by month
"""


class Score(NamedTuple):
    candidate: Candidate
    auc: float  # mean of the folds


def main() -> int:
    args = parse_arguments()
    folder = Path(args.out or tempfile.mkdtemp(prefix="sparkray-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    with spark_session(args.master) as spark:
        say(f"Spark {spark.version} on {args.master}")
        days = prepare(spark)
        # Two models to a node, as long as there are two nodes; it is we who say what a resource is.
        models_per_node = 2 if args.master.startswith("local-cluster") else 4
        with RayContext(spark, object_store_memory="128m", resources={"model": models_per_node}) as ctx:
            nodes = len(ctx.executors)
            cpus = ray.cluster_resources()["CPU"]
            say(f"RayContext: {nodes} node{'s' * (nodes > 1)} in the executors, {cpus:g} CPUs")
            run(spark, days, folder)
        say(str(ctx.last_stop).splitlines()[0])
    say(f"picture: {folder / demo_plot.NAME}")
    return 0 if ctx.last_stop.clean else 1


def run(spark: SparkSession, days: DataFrame, folder: Path) -> None:
    past = ray.data.from_spark(days.filter("year < 2015").repartition(4))
    new = ray.data.from_spark(days.filter("year = 2015").repartition(4))
    say(f"from_spark: {past.count()} days to learn from, {new.count()} to predict, {past.num_blocks()} blocks each")

    best = cross_validate(past)
    forecaster: Any = ray.remote(num_cpus=0, resources={"model": 1})(models.Forecaster)
    actors = {score.candidate.kind: forecaster.remote(score.candidate) for score in best}
    homes = ray.get([actor.home.remote() for actor in actors.values()])
    ray.get([actor.learn.remote(past) for actor in actors.values()])
    for score, (node, pid) in zip(best, homes, strict=True):
        say(f"  {score.candidate.kind:<20} AUC {score.auc:.3f} before 2015, held by process {pid} of node {node[:8]}")

    winner = best[0].candidate
    say(f"the best, {winner.kind} {winner.describe()}, predicts 2015 where its blocks lie")
    predictions = {
        kind: ray.data.from_arrow_refs([actor.predict.remote(ref) for ref in new.refs])
        for kind, actor in actors.items()
    }

    predictions[winner.kind].to_spark(spark).createOrReplaceTempView("forecast")
    table = spark.sql(RESULT_SQL)
    say("to_spark: the result, by Spark SQL")
    table.show(20, truncate=False)
    spark.catalog.dropTempView("forecast")

    frames = {kind: dataset.to_pandas() for kind, dataset in predictions.items()}
    demo_plot.draw(frames, winner.kind, folder / demo_plot.NAME)
    say("picture drawn")


def prepare(spark: SparkSession) -> DataFrame:
    """A row per day with what was known in its evening, and whether the next day was wet."""
    weather = spark.read.csv(local_data.seattle_weather.filepath, header=True)
    weather.createOrReplaceTempView("weather")
    days = spark.sql(FEATURES_SQL).dropna().cache()
    count, wet = days.selectExpr("count(*)", "avg(wet)").collect()[0]
    say(f"Spark SQL: {count} days of Seattle's weather, {wet:.0%} of them wet; {len(models.FEATURES)} features")
    return days


def cross_validate(past: Any) -> list[Score]:
    """The best candidate of each kind, best first. Every candidate is tried on two years that it has not seen."""
    trial = ray.remote(models.trial)
    running = {
        trial.remote(candidate, year, past): candidate for candidate in models.candidates() for year in models.FOLDS
    }
    aucs: dict[Candidate, list[float]] = {}
    total, shown = len(running), 0
    waiting = list(running)
    while waiting:
        done, waiting = ray.wait(waiting)
        aucs.setdefault(running[done[0]], []).append(ray.get(done[0]))
        if (total - len(waiting)) * 4 // total > shown:
            shown += 1
            say(f"  {total - len(waiting)} of {total} fits")
    best: dict[str, Score] = {}
    for candidate, found in aucs.items():
        score = Score(candidate, sum(found) / len(found))
        if candidate.kind not in best or score.auc > best[candidate.kind].auc:
            best[candidate.kind] = score
    return sorted(best.values(), key=lambda score: -score.auc)


# ------------------------------------------------------------------------------------------ around it
@contextmanager
def spark_session(master: str) -> Iterator[SparkSession]:
    """Quiet, small, and gone afterwards with all its files."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    short_lived = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # a JVM that lives for a minute gains by compiling less
    settings = {
        "spark.driver.extraJavaOptions": short_lived,
        "spark.executor.extraJavaOptions": short_lived,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.shuffle.partitions": "4",
    }
    builder: Any = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.master(master).appName("sparkray demo").getOrCreate()
    application = spark.sparkContext.applicationId
    try:
        yield spark
    finally:
        spark.stop()
        # local-cluster gives each executor a folder inside PySpark, and leaves it.
        shutil.rmtree(Path(str(pyspark.__file__)).parent / "work" / application, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--master", default="local-cluster[2,1,1024]", help="of Spark (local-cluster[2,1,1024])")
    parser.add_argument("--out", help="folder for the picture; a new one, if not given")
    return parser.parse_args()


def say(text: str) -> None:
    print(f"[{time.perf_counter() - BEGAN:5.1f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
