"""An asyncio loop in a thread of its own, for devices whose ``handle`` is a coroutine."""

from __future__ import annotations

import asyncio
import threading

from vhost_user.backend.memory_faults import let_memory_faults_through


class EventLoopThread:
    """Runs ``loop`` until ``close``. Tasks made with ``start`` can be cancelled together."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        let_memory_faults_through()
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self._finish())
            self.loop.close()

    async def _finish(self) -> None:
        await self._cancel()
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    async def _cancel(self) -> None:
        here = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not here]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel_all(self, patience: float) -> None:
        """Cancel every task of the loop and wait, at most ``patience`` seconds, until they are gone.

        Not from the loop itself.
        """
        future = asyncio.run_coroutine_threadsafe(self._cancel(), self.loop)
        try:
            future.result(patience)
        except TimeoutError:
            future.cancel()

    def close(self) -> None:
        """Cancel what runs, end the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
