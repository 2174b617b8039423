"""The lanes: order, progress, cancel with `finally`, errors, latest request wins."""

from __future__ import annotations

import threading

import pytest

from napari_mil.errors import TissueError
from napari_mil.slides import copies
from napari_mil.steps import Progress, drain
from napari_mil.ui.job import AskLane, Job, JobLane, WriteLane


@pytest.fixture
def lane():
    made = JobLane()
    yield made
    made.close()


def counting(n, log=None):
    try:
        for i in range(n):
            yield Progress("counting", i, n, payload={"i": i})
        return n
    finally:
        if log is not None:
            log.append(("closed", threading.current_thread().name))


def test_a_job_passes_payloads_on_and_returns(qtbot, lane):
    seen = []
    job = Job("count", lambda: counting(5))
    job.progressed.connect(lambda p: seen.append(p.payload["i"]))
    with qtbot.waitSignal(job.finished):
        lane.start(job)
    assert job.result == 5
    assert seen == [0, 1, 2, 3, 4]


def test_cancel_closes_the_generator_in_its_thread(qtbot, lane):
    log, running = [], threading.Event()

    def endless():
        try:
            while True:
                running.set()
                yield Progress("endless")
        finally:
            log.append(threading.current_thread().name)

    job = lane.start(Job("endless", endless))
    assert running.wait(5)
    with qtbot.waitSignals([job.cancelled, job.finished]):
        lane.cancel()
    assert log == ["napari-mil jobs"]


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_step_that_waits_for_a_copy_tells_how_far_it_is_and_can_be_cancelled(qtbot, lane, cancelled):
    log, seen, running = [], [], threading.Event()

    def copying():
        try:
            for done in range(1, 4):
                yield Progress("MB", done, 3)
                running.set()
                if cancelled:
                    job._cancel.wait(5)
        finally:
            log.append("closed")

    def working():
        yield Progress("work", 0, 1)
        drain(copying(), copies._heard.get())
        log.append("worked")

    job = Job("work", working)
    job.progressed.connect(lambda now: seen.append((now.stage, now.done)))
    with qtbot.waitSignals([job.cancelled if cancelled else job.returned, job.finished]):
        lane.start(job)
        if cancelled:
            assert running.wait(5)
            lane.cancel()
    assert log == (["closed"] if cancelled else ["closed", "worked"])
    assert seen[:2] == [("work", 0), ("MB", 1)]
    assert job.error is None
    assert copies._heard.get() is None


def test_a_second_job_queues(qtbot, lane):
    gate, order = threading.Event(), []

    def first():
        yield Progress("first")
        gate.wait(5)
        order.append("first")

    def second():
        yield Progress("second")
        order.append("second")

    lane.start(Job("first", first))
    job = lane.start(Job("second", second))
    assert lane.busy
    with qtbot.waitSignal(job.finished):
        gate.set()
    assert order == ["first", "second"]


def test_errors_arrive_as_they_are(qtbot, lane):
    def failing():
        yield Progress("looking for tissue")
        raise TissueError("No tissue was found on this slide.")

    job = Job("fail", failing)
    with qtbot.waitSignal(job.failed) as blocker:
        lane.start(job)
    assert isinstance(blocker.args[0], TissueError)


def test_closing_the_lane_cancels_and_ends_the_thread(qtbot):
    lane, log = JobLane(), []
    job = Job("count", lambda: counting(10**9, log))
    with qtbot.waitSignal(job.progressed):
        lane.start(job)
    lane.close()
    assert log
    assert "napari-mil jobs" not in [t.name for t in threading.enumerate()]
    with pytest.raises(RuntimeError):
        lane.start(Job("late", lambda: counting(1)))


def test_time_left_needs_a_total_and_some_work(qtbot, lane):
    job = Job("count", lambda: counting(3))
    assert job.seconds_left() is None
    with qtbot.waitSignal(job.finished):
        lane.start(job)
    assert job.seconds_left() is not None


def test_of_one_topic_only_the_latest_answer_is_delivered(qtbot):
    lane, gate, answers = AskLane(), threading.Event(), []

    def slow():
        gate.wait(5)
        return "first"

    lane.ask("slider", slow, answers.append)
    for number in range(20):
        lane.ask("slider", lambda number=number: number, answers.append)
    lane.ask("other", lambda: "other", answers.append)
    gate.set()
    qtbot.waitUntil(lambda: not lane.busy)
    lane.close()
    assert answers == [19, "other"]


def test_who_asks_is_told_of_errors_and_of_answers_that_nobody_wants(qtbot):
    lane, gate, answers, errors, unwanted = AskLane(), threading.Event(), [], [], []
    about = {"failed": errors.append, "unwanted": unwanted.append}
    lane.ask("one", lambda: gate.wait(5) and "old", answers.append, **about)
    qtbot.waitUntil(lambda: lane.current is not None)
    lane.ask("one", lambda: 1 / 0, answers.append, **about)
    gate.set()
    qtbot.waitUntil(lambda: not lane.busy)
    assert (answers, unwanted, [type(e) for e in errors]) == ([], ["old"], [ZeroDivisionError])
    gate.clear()
    lane.ask("two", lambda: gate.wait(5) and "late", answers.append, **about)
    lane.ask("three", lambda: "never", answers.append, **about)
    qtbot.waitUntil(lambda: lane.current is not None)
    threading.Timer(0.05, gate.set).start()
    lane.close()
    lane.ask("four", lambda: "never", answers.append, **about)
    qtbot.waitUntil(lambda: not lane.busy)
    assert (answers, unwanted) == ([], ["old", "late"])


def test_what_comes_after_the_lane_is_gone_is_let_go_of_in_its_thread(qapp):
    """A server that answered too late: no event loop runs any more that could close the slide."""
    lane, began, gate, unwanted = AskLane(), threading.Event(), threading.Event(), []

    def work():
        began.set()
        gate.wait(5)
        return "slide"

    lane.ask("slide", work, lambda _slide: None, unwanted=unwanted.append)
    assert began.wait(5)
    lane.close(0.01)
    gate.set()
    lane._thread.join(5)
    assert unwanted == ["slide"]


def test_what_is_said_is_kept_in_order_before_the_lane_closes(qtbot):
    lane, gate, kept, followed = WriteLane(), threading.Event(), [], []
    lane.write(lambda: gate.wait(5), followed.append, followed.append)
    for number in range(3):
        lane.write(lambda number=number: kept.append(number), lambda _none: None, followed.append)
    threading.Timer(0.05, gate.set).start()
    lane.close()
    assert kept == [0, 1, 2]
    qtbot.waitUntil(lambda: not lane.busy)
    assert followed == [True]
    with pytest.raises(RuntimeError, match="is closing"):
        lane.write(lambda: None, followed.append, followed.append)
