"""The process that waits for pages: how it ends (C118, C120)."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.programs import programs
from vhost_user.backend.pager import PROGRAM

SIZE = 64 << 20


class Started:
    """A pager, and what its parent has."""

    def __init__(self, stack: ExitStack) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for end in (end for pair in pairs for end in pair):
            stack.callback(end.close)
        (self.control, control), (self.questions, questions) = pairs
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(os.getpid())]
        command += [str(control.fileno()), str(questions.fileno())]
        running = stack.enter_context(programs())
        self.process = running.start(command, pass_fds=[control.fileno(), questions.fileno()])
        control.close()
        questions.close()
        data, fds, _, _ = socket.recv_fds(self.control, 4096, 1)
        stack.callback(os.close, fds[0])
        assert json.loads(data) == {"ready": True}

    def said(self) -> str:
        """What it wrote to stderr until it ended, which must not take long."""
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def pager() -> Iterator[Started]:
    with ExitStack() as stack:
        yield Started(stack)


def share(pager: Started) -> None:
    memory = os.memfd_create("memory")
    os.posix_fallocate(memory, 0, SIZE)
    socket.send_fds(pager.control, [json.dumps({"start": 0, "length": SIZE}).encode()], [memory])
    os.close(memory)
    assert json.loads(pager.control.recv(4096))["number"] == 0


def test_C120_an_end_in_the_middle_of_a_question_is_not_an_error(pager: Started) -> None:
    share(pager)
    pager.questions.send(struct.pack("=QQQ", 0, 0, SIZE))
    pager.questions.shutdown(socket.SHUT_RDWR)
    assert pager.said() == ""
    assert pager.process.returncode == 0


def test_it_ends_with_its_parents_interest(pager: Started) -> None:
    share(pager)
    pager.control.close()
    assert pager.said() == ""
    assert pager.process.returncode == 0


def test_C119_a_file_that_cannot_be_watched_is_refused_and_it_goes_on(pager: Started) -> None:
    reading, writing = os.pipe()
    for fd in (reading, writing):
        socket.send_fds(pager.control, [json.dumps({"start": 0, "length": 4096}).encode()], [fd])
        os.close(fd)
        assert "problem" in json.loads(pager.control.recv(4096))
    share(pager)
