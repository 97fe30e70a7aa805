"""What handlers return: coroutines are awaited wherever they come from, values are refused in words."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from vhost_user import Batch, Device, Request, VhostUserDaemon, Vring

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a decorator that knows nothing of coroutines: a plain function that returns what it is given."""

    @functools.wraps(function)
    def inner(*arguments: Any) -> Any:
        return function(*arguments)

    return inner


async def answer(word: bytes, request: Request) -> None:
    await asyncio.sleep(0.01)
    request.write(word)


class Decorated(Device):
    @decorated
    async def handle(self, request: Request) -> None:
        await answer(b"late", request)


class Partial(Device):
    def __init__(self) -> None:
        self.handle = functools.partial(answer, b"late")  # type: ignore[method-assign]


class Returning(Device):
    def handle(self, request: Request) -> object:
        return answer(b"late", request)


class Batches(Device):
    async def handle_batch(self, requests: Batch) -> None:
        await asyncio.sleep(0.01)
        requests.write([b"late"] * len(requests))


class DecoratedBatches(Device):
    @decorated
    async def handle_batch(self, requests: Batch) -> None:
        await asyncio.sleep(0.01)
        requests.write([b"late"] * len(requests))


class OwnHandler(Device):
    def queue_event(self, vring: Vring) -> object:
        return vring.process(functools.partial(answer, b"late"))


@pytest.mark.parametrize("kind", [Decorated, Partial, Returning, Batches, DecoratedBatches, OwnHandler])
def test_C054_a_coroutine_is_awaited_wherever_it_comes_from(stage: Stage, kind: type[Device]) -> None:
    _, front = stage.serve(kind())
    front.bring_up()
    for _ in range(3):
        assert front.request(writable=4) == b"late"


async def a_value(_request: object) -> bytes:
    await asyncio.sleep(0)
    return b"ok"


class Value(Device):
    def handle(self, request: Request) -> object:
        del request
        return b"ok"


class Count(Device):
    def handle(self, request: Request) -> object:
        return request.write(b"ok")


class AsyncValue(Device):
    async def handle(self, request: Request) -> bytes:
        return await a_value(request)


class DecoratedValue(Device):
    def handle(self, request: Request) -> object:
        return a_value(request)


class BatchValue(Device):
    def handle_batch(self, requests: Batch) -> object:
        return [b"ok"] * len(requests)


class AsyncBatchValue(Device):
    async def handle_batch(self, requests: Batch) -> bytes:
        return await a_value(requests)


VALUES = [(Value, "b'ok'"), (Count, "2"), (AsyncValue, "b'ok'"), (DecoratedValue, "b'ok'")]
BATCH_VALUES = [(BatchValue, "[b'ok']"), (AsyncBatchValue, "b'ok'")]


@pytest.mark.parametrize(("kind", "value"), [*VALUES, *BATCH_VALUES])
def test_a_value_that_a_handler_returns_fails_the_request_in_words(
    stage: Stage, caplog: pytest.LogCaptureFixture, kind: type[Device], value: str
) -> None:
    failed = threading.Event()

    class Watched(kind):  # type: ignore[misc,valid-type]
        def fail(self, request: Request, exception: BaseException) -> None:
            super().fail(request, exception)
            failed.set()

    _, front = stage.serve(Watched())
    front.bring_up()
    assert front.request(writable=4) == b""
    assert failed.wait(10)
    words = f"the handler of queue 0 returned {value}, which goes nowhere: give the guest bytes with "
    assert f"{words}request.write" in caplog.text


class Yielding(Device):
    def handle(self, request: Request) -> Iterator[None]:
        request.write(b"x")
        yield


class AsyncYielding(Device):
    async def handle(self, request: Request) -> Any:
        request.write(b"x")
        yield


@pytest.mark.parametrize("kind", [Yielding, AsyncYielding])
def test_a_handler_with_a_yield_is_told_so(
    stage: Stage, caplog: pytest.LogCaptureFixture, kind: type[Device]
) -> None:
    _, front = stage.serve(kind())
    front.bring_up()
    assert front.request(writable=4) == b""
    assert "contains a yield" in caplog.text


def test_H75_in_an_async_batch_a_request_that_cannot_be_served_fails_alone(stage: Stage) -> None:
    class Two(Batches):
        async def handle_batch(self, requests: Batch) -> None:
            requests.write([b"four"] * len(requests))

    _, front = stage.serve(Two())
    front.bring_up()
    front.post(writable=2, kick=False)
    front.post(writable=4)
    assert sorted(front.collect()[1] for _ in range(2)) == [0, 4]


def test_an_exception_out_of_an_async_batch_fails_its_requests(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(Device):
        async def handle_batch(self, requests: Batch) -> None:
            await asyncio.sleep(0)
            raise ValueError(f"no such thing as {len(requests)}")

    _, front = stage.serve(Moody())
    front.bring_up()
    assert front.request(writable=4) == b""
    assert "no such thing as 1" in caplog.text


@pytest.mark.parametrize("name", ["fail", "queue_event", "reset"])
def test_what_nobody_awaits_may_not_be_async(name: str) -> None:
    async def method(self: Device, *_arguments: object) -> None: ...

    kind = type("Wrong", (Value,), {name: method})
    with pytest.raises(TypeError, match=rf"Wrong\.{name} is an async function: nobody awaits it"):
        VhostUserDaemon("test", kind())


def test_a_decorated_coroutine_where_nobody_awaits_is_named(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Value):
        @decorated
        async def fail(self, request: Request, exception: BaseException) -> None: ...

    _, front = stage.serve(Wrong())
    front.bring_up()
    assert front.request(writable=4) == b""
    assert "Wrong.fail returned a coroutine: nobody awaits it" in caplog.text


def test_a_decorated_coroutine_of_queue_event_is_named(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()

    class Wrong(Device):
        @decorated
        def queue_event(self, vring: Vring) -> Coroutine[Any, Any, None]:
            vring.process(lambda request: request.complete(0))
            called.set()
            return self.more()

        async def more(self) -> None: ...

    daemon, front = stage.serve(Wrong())
    front.bring_up()
    front.request(writable=4)
    assert called.wait(10)
    daemon.close()
    assert "Wrong.queue_event returned a coroutine: nobody awaits it" in caplog.text


def test_C134_tasks_of_the_authors_own_outlive_a_session_and_end_with_the_device(stage: Stage) -> None:
    ticked, ended = threading.Semaphore(0), threading.Event()
    begun, cancelled = threading.Event(), threading.Event()

    class Ticking(Device):
        async def handle(self, request: Request) -> None:
            try:
                if request.read(1) == b"!":
                    begun.set()
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            request.write(b"x")

        async def tick(self) -> None:
            try:
                while True:
                    ticked.release()
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

    device = Ticking()
    daemon, front = stage.serve(device)
    asyncio.run_coroutine_threadsafe(device.tick(), device.loop)
    front.bring_up()
    assert front.request(writable=1) == b"x"
    front.post(readable=b"!", writable=1)
    assert begun.wait(10)
    front.close()
    assert daemon.wait(10)
    assert cancelled.wait(10)  # the session's own
    while ticked.acquire(blocking=False):
        pass
    assert ticked.acquire(timeout=10)
    assert ticked.acquire(timeout=10)
    assert not ended.is_set()
    daemon.close()
    assert ended.wait(10)
