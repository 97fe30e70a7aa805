"""Filters see every request of every kind of device, stack, and cost nothing when there are none."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vhost_user import Batch, Device, Next, Queue, Refuse, Request
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.frontend import BlockDriver, DeviceError

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

PATIENCE = 10.0


class Plain(Device, type="console"):
    def handle(self, request: Request) -> None:
        request.write(request.read(1).upper())


class Coroutine(Device, type="console"):
    async def handle(self, request: Request) -> None:
        await asyncio.sleep(0)
        request.write(request.read(1).upper())


class InBatches(Device, type="console"):
    def handle_batch(self, requests: Batch) -> None:
        requests.write([data.upper() for data in requests.read()])


class AsyncBatches(Device, type="console"):
    async def handle_batch(self, requests: Batch) -> None:
        await asyncio.sleep(0)
        requests.write([data.upper() for data in requests.read()])


class Declared(Device, type="console"):
    requests = Queue(0)

    @requests.handler
    def answer(self, request: Request) -> None:
        request.write(request.read(1).upper())


class Holding(Device, type="console"):
    """Completes its requests in another thread."""

    def handle(self, request: Request) -> None:
        request.hold()
        threading.Timer(0.01, self.finish, (request,)).start()

    def finish(self, request: Request) -> None:
        request.write(request.read(1).upper())
        request.complete()


KINDS = [Plain, Coroutine, InBatches, AsyncBatches, Declared, Holding]


def plain_filter(seen: list[str]) -> Any:
    def noting(request: Request, proceed: Next) -> None:
        seen.append("before")
        proceed(request)
        seen.append("after")

    return noting


def async_filter(seen: list[str]) -> Any:
    async def noting(request: Request, proceed: Next) -> None:
        seen.append("before")
        await asyncio.sleep(0)
        await proceed(request)
        seen.append("after")

    return noting


@pytest.mark.parametrize("make", [plain_filter, async_filter])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_device_passes_through_every_kind_of_filter(
    stage: Stage, kind: type[Device], make: Callable[[list[str]], Any]
) -> None:
    device = kind()
    seen: list[str] = []
    device.add_filter(make(seen))
    _, front = stage.serve(device)
    front.bring_up()
    for _ in range(3):
        assert front.request(readable=b"a", writable=1) == b"A"
    front.stop_ring()  # by now nothing is under way
    assert seen == ["before", "after"] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("makes", [[plain_filter, async_filter], [async_filter, plain_filter]])
def test_they_stack_in_the_order_they_were_added(
    stage: Stage, kind: type[Device], makes: list[Callable[[list[str]], Any]]
) -> None:
    class Mine(kind):  # type: ignore[valid-type, misc]  # one class for each, because its filters stay
        pass

    order: list[int] = []

    def note(number: int) -> list[str]:
        class Notes(list[str]):
            def append(self, what: str) -> None:
                if what == "before":
                    order.append(number)

        return Notes()

    device = Mine()
    device.add_filter(makes[1](note(2)))
    device.add_filter(plain_filter(note(3)))
    Mine.filter(makes[0](note(1)))
    _, front = stage.serve(device)
    front.bring_up()
    assert front.request(readable=b"a", writable=1) == b"A"
    assert order == [1, 2, 3]


def test_a_filter_of_a_class_is_not_one_of_its_base(stage: Stage) -> None:
    class Base(Plain):
        pass

    class Derived(Base):
        pass

    seen: list[str] = []
    assert Derived.filter(plain_filter(seen)) is not None
    inner: list[str] = []
    Base.filter(plain_filter(inner))
    assert len(Derived().filters) == 2
    assert len(Base().filters) == 1
    assert Plain().filters == ()
    _, front = stage.serve(Base())
    front.bring_up()
    assert front.request(readable=b"a", writable=1) == b"A"
    assert (seen, inner) == ([], ["before", "after"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_filter_answers_by_itself_when_it_does_not_go_on(
    stage: Stage, kind: type[Device], is_async: bool
) -> None:
    def answer(request: Request, _proceed: Next) -> None:
        request.write(b"?")

    async def answer_later(request: Request, _proceed: Next) -> None:
        await asyncio.sleep(0)
        request.write(b"?")

    device = kind()
    device.add_filter(answer_later if is_async else answer)
    _, front = stage.serve(device)
    front.bring_up()
    assert front.request(readable=b"a", writable=1) == b"?"


class Failing(Device, type="console"):
    def handle(self, _request: Request) -> object:
        raise LookupError("no such thing")

    def fail(self, request: Request, exception: BaseException) -> None:
        request.write(type(exception).__name__.encode())
        request.complete()


class FailingLater(Failing):
    async def handle(self, _request: Request) -> None:
        raise LookupError("no such thing")


class FailingBatch(Failing):
    def handle_batch(self, _requests: Batch) -> None:
        raise LookupError("no such thing")


@pytest.mark.parametrize("kind", [Failing, FailingLater, FailingBatch])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_the_handler_raises_comes_out_of_next(
    stage: Stage, kind: type[Device], is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def translate_later(request: Request, proceed: Next) -> None:
        try:
            await proceed(request)
        except LookupError:
            raise Refuse(errno.ENOENT) from None

    def translate(request: Request, proceed: Next) -> object:
        try:
            return proceed(request)
        except LookupError:
            raise Refuse(errno.ENOENT) from None

    device = kind()
    device.add_filter(translate_later if is_async else translate)
    _, front = stage.serve(device)
    front.bring_up()
    with caplog.at_level(logging.ERROR):
        answer = front.request(writable=20)
    if kind is FailingLater and not is_async:  # a plain filter is not there any more when it fails
        assert answer == b"LookupError"
        caplog.clear()
    else:
        assert answer == b"Refuse"
        assert not caplog.records


@pytest.mark.parametrize("kind", [Plain, Coroutine, InBatches])
def test_an_error_in_a_filter_fails_the_request_alone(
    stage: Stage, kind: type[Device], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def bad(request: Request, proceed: Next) -> None:
        calls.append(1)
        proceed(request) if len(calls) > 1 else None
        if len(calls) < 2:
            raise RuntimeError("the filter is broken")

    device = kind()
    device.add_filter(bad)
    _, front = stage.serve(device)
    front.bring_up()
    with caplog.at_level(logging.ERROR):
        assert front.request(readable=b"a", writable=1) == b""
    assert "the filter is broken" in caplog.text
    assert front.request(readable=b"a", writable=1) == b"A"


def test_a_value_that_a_handler_returns_is_a_mistake_behind_filters_too(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Returns(Device, type="console"):
        def handle(self, _request: Request) -> object:
            return b"bytes"

    for make in (plain_filter, async_filter):
        device = Returns()
        device.add_filter(make([]))
        _, front = stage.serve(device)
        front.bring_up()
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert front.request(writable=4) == b""
        assert "which goes nowhere" in caplog.text


def test_C054_a_stop_waits_for_requests_in_a_filter(stage: Stage) -> None:
    begun = threading.Event()

    async def slow(request: Request, proceed: Next) -> None:
        begun.set()
        await asyncio.sleep(0.1)
        await proceed(request)

    device = Plain()
    device.add_filter(slow)
    _, front = stage.serve(device)
    front.bring_up()
    front.post(readable=b"a", writable=1)
    front.kick()
    assert begun.wait(PATIENCE)
    assert front.stop_ring() == 1
    assert front.collect()[1] == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [(5, "5 is not a filter"), (lambda _: None, "must take a request and the next handler")],
)
def test_what_cannot_be_a_filter_is_refused_in_words(wrong: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        Plain().add_filter(wrong)
    with pytest.raises(TypeError, match=reason):
        type("Mine", (Plain,), {}).filter(wrong)  # type: ignore[attr-defined]


def test_a_filter_comes_too_late_when_there_is_a_daemon(stage: Stage) -> None:
    device = Plain()
    stage.serve(device)
    with pytest.raises(RuntimeError, match="add filters before the daemon is made"):
        device.add_filter(plain_filter([]))


def test_without_filters_a_device_has_its_own_handler(stage: Stage) -> None:
    """No cost: the worker calls the handler itself."""
    device = Plain()
    handle = device.handle
    daemon = stage.daemon(device)

    class Spy:
        def process(self, handler: object, _on_error: object) -> None:
            self.handler = handler

    spy = Spy()
    device._process(spy)  # type: ignore[arg-type]  # all it needs of a vring
    assert spy.handler == handle
    assert daemon.vrings


def test_with_a_filter_the_fast_path_of_a_disk_is_off(stage: Stage) -> None:
    kinds: list[int] = []

    def note(request: Request, proceed: Next) -> None:
        kinds.append(request.header[0])
        if len(kinds) == 3:
            raise Refuse(errno.EIO)
        proceed(request)

    disk = Blk(MemoryStorage(1 << 20))
    disk.add_filter(note)
    daemon = stage.daemon(disk)
    ours, theirs = socket.socketpair()
    daemon.start_connection(theirs)
    with BlockDriver(ours) as driver:
        driver.write(0, bytes(512))
        assert driver.read(0, 1) == bytes(512)
        with pytest.raises(DeviceError):
            driver.read(0, 1)
        assert driver.read(0, 1) == bytes(512)
    assert kinds == [1, 0, 0, 0]
    assert disk._fast_paths == ()
