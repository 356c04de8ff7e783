# SPDX-License-Identifier: Apache-2.0
"""A computation in a thread of its own, which stops whenever it has something to say.

So that what calls back (a module's hooks, deep in its forward) can be read as a
generator, which two computations side by side need. One of the two threads waits for
the other at any time.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

Said = TypeVar("Said")
Answer = TypeVar("Answer")


class _Closed(BaseException):
    """Nobody listens any more; no error, so that no `except Exception` catches it."""


class _End:
    """What the thread says last: the exception that it ended with, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Relay(Generic[Said, Answer]):
    def __init__(self) -> None:
        self.said: SimpleQueue[Said | _End] = SimpleQueue()
        self.answers: SimpleQueue[Answer | _End] = SimpleQueue()
        self.closed = False

    def say(self, said: Said) -> Answer:
        """In the thread: says this, and waits for the answer."""
        if self.closed:
            raise _Closed
        self.said.put(said)
        answer = self.answers.get()
        if isinstance(answer, _End):
            self.closed = True
            raise _Closed
        return answer

    def run(self, compute: Callable[[Callable[[Said], Answer]], Any]) -> None:
        """In the thread: the whole of it."""
        error: BaseException | None = None
        try:
            compute(self.say)
        except BaseException as caught:  # the generator raises it
            error = caught
        self.said.put(_End(error))


def relayed(
    compute: Callable[[Callable[[Said], Answer]], Any],
) -> Generator[Said, Answer, None]:
    """What compute(say) says, one after the other; what is sent in, `say` returns.

    An exception of compute's is raised here. A generator that is closed early ends the
    computation where it stands.
    """
    relay: _Relay[Said, Answer] = _Relay()
    run = contextvars.copy_context().run
    thread = Thread(target=run, args=(relay.run, compute), daemon=True)
    thread.start()
    try:
        while not isinstance(said := relay.said.get(), _End):
            relay.answers.put((yield said))
        if said.error is not None:
            raise said.error
    finally:
        relay.answers.put(_End(None))
        thread.join()
