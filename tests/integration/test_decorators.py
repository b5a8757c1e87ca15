"""What is decorated stays what it was: it pickles, and it binds as a method does."""

from __future__ import annotations

import abc
import concurrent.futures
import multiprocessing
import pickle

import cloudpickle
import joblib
import pytest
import rprof
from burning import burn


def burn_and_profile(seconds):
    """In a worker process: send a profile back, and the block it is of."""
    with rprof.profile(rate=500) as block:
        burn(seconds)
    return block.profile, block


DECORATORS = {
    "profile": lambda: rprof.profile(rate=200),
    "labels": lambda: rprof.labels(tenant="acme", number=7),
    # Not one that may become slow: who looks at those would stay in the process of the tests.
    "request": lambda: rprof.request("work", route="/work", labels={"a": 1}, user="me"),
}

decorated = pytest.mark.parametrize("name", DECORATORS)


def closures(decorator):
    """Return a function of each kind that cannot be found by its name, and what to call it by."""
    offset = 40

    @decorator
    def plain(n):
        return n + offset

    @decorator
    def generator(n):
        yield n + offset

    @decorator
    async def coroutine(n):
        return n + offset

    @decorator
    async def async_generator(n):
        yield n + offset

    def run(steps):
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits for something")

    return {
        "plain": (plain, lambda value: value),
        "generator": (generator, lambda steps: next(steps)),
        "coroutine": (coroutine, run),
        "async_generator": (async_generator, lambda steps: run(steps.__anext__())),
    }


@decorated
@pytest.mark.parametrize("kind", ["plain", "generator", "coroutine", "async_generator"])
def test_functions_are_sent_by_value_before_and_after_a_call(name, kind):
    function, value_of = closures(DECORATORS[name]())[kind]
    for _ in range(2):
        copy = cloudpickle.loads(cloudpickle.dumps(function))
        assert copy.__name__ == function.__name__
        assert value_of(copy(2)) == 42
        assert value_of(function(2)) == 42


@decorated
def test_functions_are_sent_to_workers_of_joblib(name):
    function, _ = closures(DECORATORS[name]())["plain"]
    assert function(2) == 42
    workers = joblib.Parallel(n_jobs=2, backend="loky")
    assert workers(joblib.delayed(function)(n) for n in range(3)) == [40, 41, 42]


def test_the_size_of_a_decorated_function_does_not_grow_by_its_profile():
    function, _ = closures(rprof.profile())["plain"]
    before = len(cloudpickle.dumps(function))
    function(1)
    assert function.profiler.profile.totals["wall"] > 0
    assert len(cloudpickle.dumps(function)) == before
    copy = cloudpickle.loads(cloudpickle.dumps(function))
    with pytest.raises(rprof.RprofStateError, match="no profile yet"):
        _ = copy.profiler.profile
    copy(1)
    assert copy.profiler.profile.totals["wall"] > 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_of_each_kind_pickle(protocol):
    def through(what):
        return pickle.loads(pickle.dumps(what, protocol))

    with through(rprof.labels(tenant="acme", number=7)):
        assert rprof.current_labels() == {"tenant": "acme", "number": "7"}
    again = through(
        rprof.request("n", route="/r", slow_after=3600.0, repeat=0, labels={"a": 1}, name_="x")
    )
    assert (again.name, again.route, again.info) == ("n", "/r", {"name_": "x"})
    with again:
        assert rprof.current_labels() == {"route": "/r", "a": "1"}
        # One that has not begun, whatever this one has.
        with through(again):
            pass
    block = through(rprof.profile(rate=250, threads="current"))
    with block:
        burn(0.02)
        with through(block) as within:
            pass
    assert block.profile.period_ns == within.profile.period_ns == 4_000_000
    assert through(block).profile.totals == block.profile.totals


def test_a_profile_comes_back_from_a_worker():
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        profile, block = pool.submit(burn_and_profile, 0.1).result()
    assert any(row.name == "burning.burn" for row in profile.top(100))
    assert profile.to_bytes() == block.profile.to_bytes()
    assert pickle.loads(pickle.dumps(profile.top(3))) == profile.top(3)


@decorated
def test_methods_bind_as_they_would(name):
    decorate = DECORATORS[name]

    class Shop:
        @decorate()
        @classmethod
        def made_by(cls, n):
            return cls.__name__, n

        @decorate()
        @staticmethod
        def price(n):
            return n

        @classmethod
        @decorate()
        def below(cls, n):
            return cls.__name__, n

        @decorate()
        def method(self, n):
            return type(self).__name__, n

        @decorate()
        @classmethod
        async def awaited(cls):
            return cls.__name__

        @decorate()
        @staticmethod
        def steps(n):
            yield from range(n)

    class Corner(Shop):
        pass

    for shop in (Corner, Corner()):
        assert shop.made_by(1) == shop.below(1) == ("Corner", 1)
        assert shop.price(2) == 2
        assert list(shop.steps(2)) == [0, 1]
        with pytest.raises(StopIteration, match="Corner"):
            shop.awaited().send(None)
    assert Corner().method(3) == ("Corner", 3)
    if name == "profile":
        assert Shop.made_by.profiler.profile.totals["wall"] > 0
        assert Shop.price.profiler.profile.totals["wall"] > 0


@decorated
def test_abstract_class_methods_stay_abstract(name):
    class Base(abc.ABC):
        @DECORATORS[name]()
        @classmethod
        @abc.abstractmethod
        def make(cls):
            """Make one."""

    assert Base.__abstractmethods__ == {"make"}
    assert Base.make.__doc__ == "Make one."


@decorated
def test_what_is_not_called_is_refused_where_it_is_decorated(name):
    with pytest.raises(rprof.RprofTypeError, match=r"a property cannot be decorated.*below"):
        DECORATORS[name]()(property(lambda self: 1))
