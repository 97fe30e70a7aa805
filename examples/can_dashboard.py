"""A dashboard in a guest reads an engine's speed from a CAN bus. A test: run it with pytest."""

import can
from cantools.database.can import Database

from vhost_user.devices import Can
from vhost_user.frontend import CanDriver
from vhost_user.testing.virtio import Virtio

DATABASE = Database()
DATABASE.add_dbc_string(
    """VERSION ""
BU_: Engine Dashboard
BO_ 513 Motion: 8 Engine
 SG_ Speed : 0|16@1+ (0.25,0) [0|8000] "rpm" Dashboard
 SG_ Temperature : 16|8@1- (1,40) [-88|167] "degC" Dashboard
BO_ 769 Lamp: 1 Dashboard
 SG_ Warning : 0|1@1+ (1,0) [0|1] "" Engine
"""
)


def test_dashboard(virtio: Virtio) -> None:
    with can.Bus("engine", interface="virtual") as engine:
        dashboard = virtio.attach(Can("virtual:engine")).drive(CanDriver)  # a guest would do just as well
        engine.send(can.Message(arbitration_id=513, is_extended_id=False, data=DATABASE.encode_message(
            "Motion", {"Speed": 6500.25, "Temperature": 131})))  # fmt: skip

        frame = dashboard.receive()
        motion = DATABASE.decode_message(frame.can_id, frame.data)
        assert motion == {"Speed": 6500.25, "Temperature": 131}

        dashboard.send(769, DATABASE.encode_message("Lamp", {"Warning": 1}))
        lamp = engine.recv(10)
        assert lamp is not None
        assert DATABASE.decode_message(lamp.arbitration_id, bytes(lamp.data)) == {"Warning": 1}
