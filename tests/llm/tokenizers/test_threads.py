"""Spreading work over threads: order, laziness, errors."""

import threading
import weakref

import pytest

from llm.tokenizers._threads import Crew

# results as the work goes on


def map_in_threads(work, items, num_threads):
    with Crew(num_threads) as crew:
        yield from crew.map(work, items)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_results_come_in_the_order_of_the_items(num_threads, count):
    results = map_in_threads(lambda item: item * item, iter(range(count)), num_threads)
    assert list(results) == [item * item for item in range(count)]


def test_results_come_in_order_even_if_the_first_takes_longest():
    others_done = threading.Event()

    def work(item):
        if item == 0:
            assert others_done.wait(30)
        if item == 3:
            others_done.set()
        return item

    assert list(map_in_threads(work, range(4), 2)) == [0, 1, 2, 3]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_items_are_read_a_few_at_a_time(num_threads):
    num_read = 0

    def items():
        nonlocal num_read
        for item in range(1000):
            num_read += 1
            yield item

    results = map_in_threads(str, items(), num_threads)
    assert num_read == 0
    for index in range(100):
        assert next(results) == str(index)
        assert num_read <= index + 1 + 2 * num_threads
    results.close()
    assert num_read < 200


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_an_error_of_the_work_comes_out_and_the_rest_is_left(num_threads):
    done = []

    def work(item):
        if item == 5:
            raise KeyError("of the work")
        done.append(item)
        return item

    results = []
    with pytest.raises(KeyError, match="of the work"):
        results.extend(map_in_threads(work, range(1000), num_threads))
    assert done[:5] == [0, 1, 2, 3, 4] or num_threads > 1
    assert len(done) < 50


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_an_error_of_the_items_comes_out(num_threads):
    def items():
        yield 1
        raise KeyError("of the items")

    with pytest.raises(KeyError, match="of the items"):
        list(map_in_threads(str, items(), num_threads))


@pytest.mark.parametrize("num_threads", [2, 3])
def test_no_thread_is_left(num_threads):
    before = threading.active_count()
    list(map_in_threads(str, range(50), num_threads))
    unfinished = map_in_threads(str, range(50), num_threads)
    next(unfinished)
    unfinished.close()
    assert threading.active_count() == before


def test_one_thread_is_the_caller_s():
    names = list(map_in_threads(lambda _: threading.current_thread(), range(3), 1))
    assert names == [threading.current_thread()] * 3


def test_several_threads_work_at_once_the_caller_s_among_them():
    all_inside, threads = threading.Barrier(3, timeout=30), set()

    def work(_):
        threads.add(threading.current_thread())
        all_inside.wait()

    list(map_in_threads(work, range(6), 3))
    assert len(threads) == 3
    assert threading.current_thread() in threads


# a crew


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_results_of_a_crew_come_in_the_order_of_the_items(num_threads):
    done = []

    def work(item):
        done.append(item)
        return item * item

    with Crew(num_threads) as crew:
        first, second = (crew.start(work, range(begin, begin + 50)) for begin in (0, 50))
        assert list(crew.results(second)) == [item * item for item in range(50, 100)]
        assert list(crew.results(first)) == [item * item for item in range(50)]
        assert list(crew.results([])) == []
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("num_threads", [2, 3])
def test_a_crew_works_ahead_and_the_caller_helps(num_threads):
    names, all_inside = set(), threading.Barrier(num_threads, timeout=30)

    def work(item):
        names.add(threading.current_thread())
        all_inside.wait()

    ahead = threading.Event()
    with Crew(num_threads) as crew:
        [task] = crew.start(lambda _: ahead.set(), [0])
        assert ahead.wait(30)
        task.result()
        list(crew.results(crew.start(work, range(2 * num_threads))))
    assert len(names) == num_threads
    assert threading.current_thread() in names


def test_a_crew_of_one_works_when_results_are_asked_for():
    done = []
    with Crew(1) as crew:
        results = crew.results(crew.start(done.append, range(3)))
        assert done == []
        next(results)
        assert done == [0]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyError("of the work"), KeyboardInterrupt()])
def test_the_first_error_of_a_crew_comes_out_and_no_thread_is_left(num_threads, error):
    before, done = threading.active_count(), []

    def work(item):
        if item >= 5:
            raise error
        done.append(item)
        return item

    results = []
    with pytest.raises(type(error)), Crew(num_threads) as crew:
        results.extend(crew.results(crew.start(work, range(10))))
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert threading.active_count() == before


def test_work_of_a_crew_that_nobody_has_begun_is_dropped():
    go_on, done = threading.Event(), []

    def work(item):
        go_on.wait(30)
        done.append(item)

    with Crew(2) as crew:
        crew.start(work, range(100))
        threading.Timer(0.3, go_on.set).start()
    assert set(done) <= {0, 1}


def test_what_was_done_is_not_kept_for_threads_that_are_late():
    """On a busy machine the others may come to their work long after the caller has done it."""

    class Item:
        pass

    are_late, goes_on = threading.Event(), threading.Event()
    with Crew(2) as crew:
        kept = crew.start(lambda _: are_late.set() or goes_on.wait(30), [None])
        assert are_late.wait(30)
        items = []
        for _ in range(5):
            item = Item()
            items.append(weakref.ref(item))
            assert len(list(crew.results(crew.start(lambda item: [item], [item])))) == 1
            del item
        still_there = [item() for item in items]
        goes_on.set()
        assert list(crew.results(kept)) == [True]
    assert still_there == [None] * 5
