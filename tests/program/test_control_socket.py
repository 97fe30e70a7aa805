"""The control socket: what it tells, and commands of other parts."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.control import Dice, MakeRoom, standard
from tests.support.front_end import until
from vhost_user.backend.device import ControlCommand
from vhost_user.program.control.commands import CommandFailed, Commands
from vhost_user.program.control.standard import add_of_device

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def test_the_life_of_a_session(stage: Stage, control_room: MakeRoom) -> None:
    daemon = stage.daemon(Dice(), name="dice")
    client = control_room(standard(daemon)).client()
    assert client.result("session") is None
    assert client.result("features")["acknowledged"]["names"] == []
    front = stage.connect(daemon)
    front.bring_up()
    front.request(writable=8)
    status = client.result("status")
    assert status["connected"]
    assert status["sessions"] == 1
    assert status["rings"] == {"running": 1}
    assert status["name"] == "dice"
    assert status["pid"] == os.getpid()
    queue = client.result("queues", queue=0)[0]
    assert queue["state"] == "running"
    assert queue["size"] == 16
    assert queue["layout"] == "split"
    assert queue["kick"]
    assert queue["call"]
    until(lambda: client.result("queues")[0]["counters"]["requests"] == 1)
    session = client.result("session")
    assert session["number"] == 1
    assert session["memory"][0]["size"] == 1 << 20
    names = client.result("features")["acknowledged"]["names"]
    assert "VERSION_1" in names
    assert "RING_PACKED" not in names
    assert client.result("workers")[0]["queues"] == [0]
    assert client.result("counters").keys() == {"queue 0", "worker 0"}
    front.enable(on=False)
    assert client.result("queues")[0]["state"] == "disabled"
    front.stop_ring()
    assert client.result("status")["rings"] == {"stopped": 1}
    front.close()
    until(lambda: client.result("session") is None)
    assert client.result("status")["last_session_end"] == "the peer closed the connection"


def test_a_broken_ring_says_why(stage: Stage, control_room: MakeRoom) -> None:
    daemon, front = stage.serve(Dice())
    client = control_room(standard(daemon)).client()
    front.bring_up()
    ring = front.rings[0]
    ring.set_avail_index(40000)  # V003
    ring.kick(force=True)
    until(lambda: client.result("queues")[0]["state"] == "broken")
    assert "V003" in client.result("queues")[0]["broken"]
    assert client.result("status")["rings"] == {"broken": 1}


def test_a_queue_that_there_is_not(stage: Stage, control_room: MakeRoom) -> None:
    client = control_room(standard(stage.daemon(Dice()))).client()
    assert client.ask("queues", queue=3)["error"] == "there is no queue 3: there are 1, from 0 on"


def test_help_names_every_command_and_its_arguments(stage: Stage, control_room: MakeRoom) -> None:
    known = control_room(standard(stage.daemon(Dice()))).client().result("help")
    assert known["queues"]["arguments"] == {"queue": {"kind": "a whole number", "required": False}}
    assert known.keys() >= {"help", "status", "queues", "workers", "counters", "features", "session", "stop"}
    assert all(command["summary"] for command in known.values())


def test_a_command_of_another_part(control_room: MakeRoom) -> None:
    commands = Commands()

    def fault(rate: float, *, queue: int = 0, kind: str = "error") -> dict[str, object]:
        return {"rate": rate, "queue": queue, "kind": kind}

    commands.add("fault", fault, "have requests fail")
    client = control_room(commands).client()
    assert client.result("fault", rate=0.5, kind="delay") == {"rate": 0.5, "queue": 0, "kind": "delay"}
    assert client.result("fault", rate=1)["rate"] == 1
    assert client.ask("fault")["error"] == "fault needs rate"
    assert client.ask("fault", rate="much")["error"] == "fault: rate is a number, not 'much'"
    assert client.ask("fault", rate=True)["error"] == "fault: rate is a number, not True"
    assert (
        client.ask("fault", rate=1, x=1)["error"] == "fault has no argument 'x'; it takes rate, queue, kind"
    )
    with pytest.raises(ValueError, match="already"):
        commands.add("fault", fault, "again")
    with pytest.raises(TypeError, match="cannot be given by name"):
        commands.add("odd", lambda *rest: rest, "takes what has no name")


def test_a_device_brings_commands_of_its_own_and_those_of_the_program_come_first() -> None:
    class Loaded(Dice):
        weight = 0

        def load(self, grams: int) -> int:
            if grams < 0:
                raise ValueError(f"{grams} grams are no weight")
            self.weight = grams
            return self.weight

        def control_commands(self) -> list[ControlCommand]:
            return [("load", self.load, "make it heavier"), ("status", self.load, "never seen")]

    device, commands = Loaded(), Commands()
    commands.add("status", lambda: "the program's", "status")
    add_of_device(commands, device)
    assert commands["load"].carry_out({"grams": 5}) == device.weight == 5
    assert commands["status"].carry_out({}) == "the program's"
    for arguments, problem in (
        ({"grams": -1}, "-1 grams are no weight"),
        ({"grams": "5"}, "grams is a whole number"),
        ({}, "load needs grams"),
    ):
        with pytest.raises(CommandFailed, match=problem):
            commands["load"].carry_out(arguments)
    add_of_device(commands, object())
    device.close()


def test_what_a_command_raises_is_an_answer(control_room: MakeRoom, caplog: Any) -> None:
    commands = Commands()

    def refuse() -> None:
        raise CommandFailed("not on a Sunday")

    commands.add("refuse", refuse, "refuses")
    commands.add("break", lambda: 1 // 0, "breaks")
    commands.add("odd", lambda: {1, 2}, "gives what JSON cannot say")
    commands.add("nan", lambda: float("nan"), "gives what JSON cannot say")
    client = control_room(commands).client()
    assert client.ask("refuse")["error"] == "not on a Sunday"
    assert not caplog.records
    assert client.ask("break")["error"].startswith("break failed: ZeroDivisionError")
    assert client.ask("odd")["error"].startswith("odd failed: TypeError")
    assert client.ask("nan")["error"].startswith("nan failed: ValueError")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert client.result("help")


def test_a_long_command_keeps_nobody_waiting(control_room: MakeRoom) -> None:
    commands = Commands()
    begun, go_on = threading.Event(), threading.Event()

    def upgrade() -> str:
        begun.set()
        assert go_on.wait(20)
        return "done"

    commands.add("upgrade", upgrade, "takes long", long=True)
    place = control_room(commands)
    first, second = place.client(), place.client()
    first.send({"command": "upgrade", "id": 1})
    first.send({"command": "help", "id": 2})
    assert begun.wait(20)
    assert second.result("help")
    assert "another command is still being carried out" in second.ask("upgrade")["error"]
    go_on.set()
    assert first.line() == {"id": 1, "ok": True, "result": "done"}
    assert first.line()["id"] == 2
    assert second.result("upgrade") == "done"


def test_who_gave_a_long_command_may_go(control_room: MakeRoom) -> None:
    commands = Commands()
    begun, go_on = threading.Event(), threading.Event()

    def upgrade() -> None:
        begun.set()
        assert go_on.wait(20)

    commands.add("upgrade", upgrade, "takes long", long=True)
    place = control_room(commands)
    first = place.client()
    first.send({"command": "upgrade"})
    assert begun.wait(20)
    first.sock.close()
    assert place.client().result("help")
    go_on.set()
    until(lambda: place.client().ask("upgrade")["ok"])
