"""Many models, one for each group: where will jobs in the United States be in three months, sector by sector?

    spark-submit --master local-cluster[2,1,1024] examples/submit_forecasts.py --out forecasts

spark-submit says where it runs and how large the executors are; nothing of that stands here. Spark makes the features;
`from_spark` puts them into the stores of the executors, each sector whole in one block; a task for each block fits and
judges the models of its sectors; `to_spark` gives Spark the forecasts, which writes them as Parquet and sums them up.
Data: monthly employment by sector, 2006 to 2015 (U.S. Bureau of Labor Statistics), as vega_datasets ships it.
"""

from __future__ import annotations

import argparse
from typing import Any

from pyspark.sql import DataFrame, SparkSession

import sparkray as ray
from sparkray import RayContext

SECTORS = [
    *("mining_and_logging", "construction", "durable_goods", "nondurable_goods", "wholesale_trade", "retail_trade"),
    *("transportation_and_warehousing", "utilities", "information", "financial_activities"),
    *("professional_and_business_services", "education_and_health_services", "leisure_and_hospitality"),
    *("other_services", "government"),
]
FEATURES = ["last_1", "last_3", "last_6", "last_12", "season_sin", "season_cos"]
TARGET = "next_3"
JUDGED_FROM = 2013  # years before it are learnt from

# Changes in percent of the jobs that there were.
FEATURES_SQL = """
    with changes as (
        select sector, month, year(month) year, jobs,
               100 * (jobs / lag(jobs, 1)  over by_month - 1)  last_1,
               100 * (jobs / lag(jobs, 3)  over by_month - 1)  last_3,
               100 * (jobs / lag(jobs, 6)  over by_month - 1)  last_6,
               100 * (jobs / lag(jobs, 12) over by_month - 1)  last_12,
               100 * (lead(jobs, 3) over by_month / jobs - 1)  next_3,
               sin(2 * pi() * month(month) / 12)               season_sin,
               cos(2 * pi() * month(month) / 12)               season_cos
        from jobs window by_month as (partition by sector order by month)
    )
    select *, (last_3 + last_6 / 2 + last_12 / 4) / 3 trend from changes
"""

RESULT_SQL = """
    select coalesce(sector, 'all sectors')            as sector,
           round(sum(jobs) / count(distinct month))   as thousand_jobs,
           round(avg(abs(next_3)), 2)                 as wrong_if_nothing_changes,
           round(avg(abs(next_3 - last_3)), 2)        as wrong_if_it_goes_on,
           round(avg(abs(next_3 - forecast)), 2)      as wrong_by_model
    from forecasts group by rollup(sector) order by thousand_jobs desc
"""


def main() -> None:
    args = parse_arguments()
    spark = SparkSession.builder.appName("forecasts of jobs").getOrCreate()
    months = prepare(spark, args.input)
    with RayContext(spark, object_store_memory=args.store) as ctx:
        # By sector, so that each lies whole in one block: a task needs no other.
        dataset = ray.data.from_spark(months.repartition(args.blocks, "sector"))
        print(f"{dataset.count()} months in {dataset.num_blocks()} blocks on {len(ctx.executors)} nodes")
        forecasts = ray.data.from_arrow_refs([forecast.remote(block) for block in dataset.refs])
        result = forecasts.to_spark(spark)
        result.write.mode("overwrite").parquet(args.out)
        result.createOrReplaceTempView("forecasts")
        print(f"{args.out}: {result.count()} forecasts. In percent, from {JUDGED_FROM} on:")
        spark.sql(RESULT_SQL).show(len(SECTORS) + 1, truncate=False)
    spark.stop()


def prepare(spark: SparkSession, path: str) -> DataFrame:
    """A row for each sector and month, with how it has changed before and after."""
    table = spark.read.csv(path, header=True, inferSchema=True)
    long = table.selectExpr(
        "to_date(month) as month",
        f"stack({len(SECTORS)}, {', '.join(f'{name!r}, double({name})' for name in SECTORS)}) as (sector, jobs)",
    )
    long.createOrReplaceTempView("jobs")
    return spark.sql(FEATURES_SQL).dropna()


@ray.remote
def forecast(block: Any) -> Any:
    """A model for each sector of the block, and what it says of the months that it has not seen."""
    import pandas as pd
    import pyarrow as pa
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    all_months = block.to_pandas().sort_values("month").assign(forecast=0.0)
    judged = [all_months[:0]]  # a block may have no sector
    for _, months in all_months.groupby("sector"):
        before, then = months[months.year < JUDGED_FROM], months[months.year >= JUDGED_FROM]
        # What differs from the trend is learnt, with caution: a sector has 69 months to learn from.
        model = make_pipeline(StandardScaler(), RidgeCV([100, 1000]))
        model.fit(before[FEATURES], before[TARGET] - before.trend)
        judged.append(then.assign(forecast=then.trend + model.predict(then[FEATURES])))
    schema = block.schema.append(pa.field("forecast", pa.float64()))
    return pa.Table.from_pandas(pd.concat(judged[1:] or judged), schema, preserve_index=False)


def parse_arguments() -> argparse.Namespace:
    from vega_datasets import local_data

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--input", default=local_data.us_employment.filepath, help="CSV that every executor can read")
    parser.add_argument("--out", default="forecasts", help="folder for the Parquet files (forecasts)")
    parser.add_argument("--blocks", type=int, default=4, help="of the dataset, and so tasks (4)")
    parser.add_argument("--store", default="128m", help="object store of each node (128m)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
