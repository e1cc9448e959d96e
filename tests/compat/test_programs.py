"""Programs as people write them for Ray's core, after its walkthrough, examples and patterns: the import is ours."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sparkray as ray
from sparkray.util import ActorPool


@pytest.fixture(scope="module", autouse=True)
def session() -> Any:
    with ray.init(num_cpus=4, object_store_memory=256 << 20) as context:
        yield context


def test_the_walkthrough_as_a_script_that_does_not_call_init() -> None:
    script = """
        import sparkray as ray

        @ray.remote
        def square(x):
            return x * x

        @ray.remote
        class Counter:
            def __init__(self):
                self.i = 0

            def get(self):
                return self.i

            def incr(self, value):
                self.i += value

        print(ray.get([square.remote(i) for i in range(4)]))

        counter = Counter.remote()
        for _ in range(10):
            counter.incr.remote(1)
        print(ray.get(counter.get.remote()))

        @ray.remote
        def sum_matrix(matrix):
            return sum(map(sum, matrix))

        print(ray.get(sum_matrix.remote([[1] * 100] * 100)))
        matrix = ray.put([[2] * 100] * 100)
        print(ray.get(sum_matrix.remote(matrix)))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.returncode, ran.stdout.splitlines(), ran.stderr) == (0, ["[0, 1, 4, 9]", "10", "10000", "20000"], "")


def test_pi_by_dice_with_an_actor_that_counts_progress() -> None:
    @ray.remote
    class Progress:
        def __init__(self, total: int) -> None:
            self.total = total
            self.done: dict[int, int] = {}

        def report(self, task: int, samples: int) -> None:
            self.done[task] = samples

        def get(self) -> float:
            return sum(self.done.values()) / self.total

    @ray.remote
    def sample(count: int, task: int, progress: Any) -> int:
        dice = random.Random(task)
        inside = 0
        for index in range(1, count + 1):
            inside += dice.uniform(-1, 1) ** 2 + dice.uniform(-1, 1) ** 2 <= 1
            if index % 1000 == 0:
                progress.report.remote(task, index)
        return inside

    tasks, count = 8, 5000
    progress = Progress.remote(tasks * count)
    results = [sample.remote(count, task, progress) for task in range(tasks)]
    pi = 4 * sum(ray.get(results)) / (tasks * count)

    assert abs(pi - 3.14159) < 0.05
    while ray.get(progress.get.remote()) < 1:  # the reports are on their way
        pass


def test_map_reduce_over_partitions() -> None:
    text = ["the zen of tasks", "the actors and the tasks", "now is better than never", "and never is the end"]

    @ray.remote
    def apply_map(lines: list[str], partitions: int) -> list[list[tuple[str, int]]]:
        out: list[list[tuple[str, int]]] = [[] for _ in range(partitions)]
        for line in lines:
            for word in line.split():
                out[ord(word[0]) % partitions].append((word, 1))
        return out

    @ray.remote
    def apply_reduce(*parts: list[tuple[str, int]]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for part in parts:
            for word, number in part:
                counts[word] += number
        return dict(counts)

    partitions = 3
    mapped = [apply_map.options(num_returns=partitions).remote([line], partitions) for line in text]
    outputs = [apply_reduce.remote(*(parts[index] for parts in mapped)) for index in range(partitions)]
    counts: Counter[str] = Counter()
    for output in ray.get(outputs):
        counts.update(output)

    assert counts == Counter(" ".join(text).split())


def test_tree_reduce_in_the_order_in_which_values_come() -> None:
    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    @ray.remote
    def make(value: int) -> int:
        return value

    values: list[Any] = [make.remote(index) for index in range(1, 65)]
    while len(values) > 1:
        ready, values = ray.wait(values, num_returns=2)
        values.append(add.remote(*ready))

    assert ray.get(values[0]) == sum(range(1, 65))


def test_nested_tasks_sort_quickly() -> None:
    def partition(items: list[int]) -> tuple[list[int], list[int], list[int]]:
        pivot = items[-1]
        return [i for i in items if i < pivot], [i for i in items if i == pivot], [i for i in items if i > pivot]

    @ray.remote
    def quick_sort(items: list[int]) -> list[int]:
        if len(items) <= 200:
            return sorted(items)
        lesser, pivots, greater = partition(items)
        below, above = quick_sort.remote(lesser), quick_sort.remote(greater)
        return ray.get(below) + pivots + ray.get(above)

    items = random.Random(8).sample(range(10_000), 2000)

    assert ray.get(quick_sort.remote(items)) == sorted(items)


def test_a_pipeline_of_actors_hands_references_on() -> None:
    @ray.remote
    class Stage:
        def __init__(self, factor: int) -> None:
            self.factor = factor
            self.seen = 0

        def process(self, batch: Any) -> Any:
            self.seen += 1
            return batch * self.factor

        def count(self) -> int:
            return self.seen

    stages = [Stage.remote(factor) for factor in (2, 3, 5)]
    results = []
    for index in range(10):
        batch: Any = np.full(50_000, index)
        for stage in stages:
            batch = stage.process.remote(batch)
        results.append(batch)

    assert [int(one[0]) for one in ray.get(results)] == [30 * index for index in range(10)]
    assert ray.get([stage.count.remote() for stage in stages]) == [10] * 3


def test_pending_tasks_are_limited_by_wait() -> None:
    @ray.remote
    class Running:
        def __init__(self) -> None:
            self.now = self.most = 0

        def enter(self) -> None:
            self.now += 1
            self.most = max(self.most, self.now)

        def leave(self) -> None:
            self.now -= 1

        def get_most(self) -> int:
            return self.most

    @ray.remote
    def work(index: int, running: Any) -> int:
        ray.get(running.enter.remote())
        ray.get(running.leave.remote())
        return index

    running = Running.remote()
    limit = 4
    pending: list[Any] = []
    results: list[int] = []
    for index in range(40):
        if len(pending) >= limit:
            ready, pending = ray.wait(pending, num_returns=1)
            results += ray.get(ready)
        pending.append(work.remote(index, running))
    results += ray.get(pending)

    assert sorted(results) == list(range(40))
    assert ray.get(running.get_most.remote()) <= limit


def test_a_generator_feeds_a_consumer_item_by_item() -> None:
    @ray.remote(_generator_backpressure_num_objects=2)
    def read_shards(count: int) -> Iterator[Any]:
        for index in range(count):
            yield np.full(100_000, index)

    @ray.remote
    def total(shard: Any) -> int:
        return int(shard.sum())

    assert ray.get([total.remote(ref) for ref in read_shards.remote(8)]) == [100_000 * i for i in range(8)]


def test_a_supervisor_replaces_its_children() -> None:
    @ray.remote
    class Child:
        def __init__(self, number: int) -> None:
            self.number = number

        def work(self, fails: bool) -> int:
            if fails:
                os._exit(1)
            return self.number

    @ray.remote(num_cpus=0)
    class Supervisor:
        def __init__(self, count: int) -> None:
            self.children = [Child.remote(number) for number in range(count)]
            self.replaced = 0

        def run(self, failing: int) -> list[int]:
            refs = [child.work.remote(number == failing) for number, child in enumerate(self.children)]
            results = []
            for number, ref in enumerate(refs):
                try:
                    results.append(ray.get(ref))
                except ray.exceptions.RayActorError:  # noqa: PERF203 - as users write it
                    self.children[number] = Child.remote(number)
                    self.replaced += 1
                    results.append(ray.get(self.children[number].work.remote(False)))
            return results

        def get_replaced(self) -> int:
            return self.replaced

    supervisor = Supervisor.remote(3)
    assert ray.get(supervisor.run.remote(1)) == [0, 1, 2]
    assert ray.get(supervisor.run.remote(-1)) == [0, 1, 2]
    assert ray.get(supervisor.get_replaced.remote()) == 1


def test_actors_share_what_another_keeps_under_a_name() -> None:
    @ray.remote(num_cpus=0)
    class Settings:
        def __init__(self) -> None:
            self.values: dict[str, Any] = {}

        def set(self, name: str, value: Any) -> None:
            self.values[name] = value

        def get(self, name: str) -> Any:
            return self.values[name]

    @ray.remote(num_cpus=0)
    class Reader:
        def __init__(self) -> None:
            self.settings = Settings.options(name="settings", get_if_exists=True).remote()

        def read(self, name: str) -> Any:
            return ray.get(self.settings.get.remote(name))

    settings = Settings.options(name="settings", get_if_exists=True).remote()
    ray.get(settings.set.remote("rate", 0.1))
    readers = [Reader.remote() for _ in range(3)]

    assert ray.get([reader.read.remote("rate") for reader in readers]) == [0.1] * 3
    assert ray.get(ray.get_actor("settings").get.remote("rate")) == 0.1


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_parameter_server_fits_a_line(synchronous: bool) -> None:
    true = np.array([2.0, -3.0, 0.5])

    @ray.remote(num_cpus=0)
    class ParameterServer:
        def __init__(self, size: int, rate: float) -> None:
            self.weights = np.zeros(size)
            self.rate = rate

        def apply_gradients(self, *gradients: Any) -> Any:
            self.weights = self.weights - self.rate * np.mean(gradients, axis=0)
            return self.weights

        def get_weights(self) -> Any:
            return self.weights

    @ray.remote
    class Worker:
        def __init__(self, seed: int) -> None:
            self.dice = np.random.default_rng(seed)

        def compute_gradients(self, weights: Any) -> Any:
            x = self.dice.normal(size=(64, len(weights)))
            return 2 * x.T @ (x @ weights - x @ true) / len(x)

    server = ParameterServer.remote(3, 0.2)
    workers = [Worker.remote(seed) for seed in range(3)]
    current = server.get_weights.remote()
    if synchronous:
        for _ in range(30):
            current = server.apply_gradients.remote(*(one.compute_gradients.remote(current) for one in workers))
    else:
        under_way = {one.compute_gradients.remote(current): one for one in workers}
        for _ in range(90):
            (ready,), _ = ray.wait(list(under_way))
            worker = under_way.pop(ready)
            current = server.apply_gradients.remote(ready)
            under_way[worker.compute_gradients.remote(current)] = worker

    assert np.allclose(ray.get(current), true, atol=0.05)


def test_batches_are_predicted_by_a_pool_of_actors_with_one_model() -> None:
    model = ray.put({"weights": np.arange(1000.0), "bias": 1.0})

    @ray.remote
    class Predictor:
        def __init__(self, model: dict[str, Any]) -> None:
            self.model = model

        def predict(self, batch: Any) -> Any:
            return batch @ self.model["weights"] + self.model["bias"]

    pool = ActorPool([Predictor.remote(model) for _ in range(3)])
    batches = [np.full((4, 1000), index) for index in range(9)]
    predicted = list(pool.map(lambda actor, batch: actor.predict.remote(batch), batches))

    assert [float(one[0]) for one in predicted] == [index * 499_500.0 + 1 for index in range(9)]


def test_many_small_tasks_in_chunks() -> None:
    @ray.remote
    def squares(numbers: range) -> list[int]:
        return [number * number for number in numbers]

    @ray.remote
    def one(number: int) -> int:
        return number

    chunks = [range(begin, begin + 500) for begin in range(0, 10_000, 500)]
    assert sum(map(sum, ray.get([squares.remote(chunk) for chunk in chunks]))) == sum(n * n for n in range(10_000))
    assert ray.get([one.remote(number) for number in range(2000)]) == list(range(2000))


def test_a_search_that_goes_on_from_what_comes_first() -> None:
    @ray.remote
    def evaluate(rate: float, resumed: float) -> tuple[float, float]:
        return rate, resumed + rate * 0.5

    dice = random.Random(3)
    pending = {evaluate.remote(rate, 0.0): rate for rate in (dice.uniform(0, 1) for _ in range(8))}
    best, rounds = (0.0, 0.0), 0
    while pending:
        (done,), _ = ray.wait(list(pending))
        rate = pending.pop(done)
        _, score = ray.get(done)
        best = max(best, (score, rate))
        rounds += 1
        if rounds <= 24:
            pending[evaluate.remote(rate, score)] = rate

    assert rounds == 32
    assert best[0] > 0


def test_flaky_work_is_retried_and_what_stays_wrong_is_told(tmp_path: Any) -> None:
    @ray.remote(max_retries=5, retry_exceptions=[ConnectionError])
    def download(name: str) -> str:
        path = tmp_path / name
        attempts = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(attempts))
        if name == "missing":
            raise FileNotFoundError(name)
        if attempts < 3:
            raise ConnectionError(name)
        return name

    done, failed = [], []
    for name, ref in {name: download.remote(name) for name in ("a", "b", "missing")}.items():
        try:
            done.append(ray.get(ref))
        except FileNotFoundError as error:  # noqa: PERF203 - as users write it
            failed.append((name, isinstance(error, ray.exceptions.RayTaskError)))

    assert (done, failed) == (["a", "b"], [("missing", True)])


def test_an_asyncio_program_serves_calls_by_tasks_and_async_actors() -> None:
    @ray.remote
    def slow_square(value: int) -> int:
        return value * value

    @ray.remote(num_cpus=0)
    class Service:
        def __init__(self) -> None:
            self.open = asyncio.Event()
            self.served = 0

        async def start(self) -> None:
            self.open.set()

        async def handle(self, value: int) -> int:
            await self.open.wait()
            self.served += 1
            return int(await slow_square.remote(value))

    async def main() -> list[int]:
        service = Service.remote()
        answers = [service.handle.remote(value) for value in range(20)]
        await service.start.remote()
        return list(await asyncio.gather(*answers))

    assert asyncio.run(main()) == [value * value for value in range(20)]
