"""An I2C bus (virtio 1.4, 5.16), with models on it or devices of this machine.

class TMP102(I2cModel):
    temperature = Register(0x00, size=2)

sensor = TMP102()
serve(I2c({0x48: sensor}))
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vhost_user.backend import Device, Queue, Refuse
from vhost_user.devices.i2c_model import Adapter, Message, Target
from vhost_user.devices.result_byte import RESULT, refuse
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.i2c import I2cFeature, I2cFlag, I2cStatus

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

MAX_MESSAGE = 8192
"""Bytes of one message: what Linux takes for one."""
MAX_MESSAGES = 42
"""Messages of one transfer: what Linux takes for one."""


class I2c(Device, type="i2c", device_features=I2cFeature.ZERO_LENGTH_REQUEST):
    """A bus with targets by their addresses, of seven bits, or of ten from 0x80 on.

    Requests that the driver ties together (FAIL_NEXT) are one transfer, carried out when its last one is
    there; after one that fails the rest fails. An address without a target does not answer: ERR. Raises
    ValueError for an address that there is not.
    """

    requests = Queue(0, header="<H2xI")

    def __init__(self, targets: Mapping[int, Target]) -> None:
        for address in targets:
            if not 0 <= address <= 0x3FF or 0x78 <= address <= 0x7F:
                raise ValueError(f"{address:#x} is not an address: there are 0 to 0x77, and 0x80 to 0x3ff")
        self.targets = dict(targets)
        """What answers where; may be changed at any time, as when a device is plugged in."""
        self._group: list[Request] = []

    def shutdown(self) -> None:
        """Buses of this machine are closed."""
        for target in {id(target): target for target in self.targets.values()}.values():
            if isinstance(target, Adapter):
                target.close()

    def queue_stopping(self, queue: int) -> float | None:
        """A transfer whose end has not come goes back as it is, and comes again."""
        del queue
        return 0.0 if self._group else None

    @requests.handler
    def request(self, request: Request) -> None:
        """Wait for the last one of the transfer, and carry it out."""
        self._group = [each for each in self._group if each.alive]
        _, flags = request.header
        if flags & I2cFlag.FAIL_NEXT and len(self._group) < MAX_MESSAGES:
            request.hold()
            self._group.append(request)
            return
        group, self._group = [*self._group, request], []
        try:
            self._transfer(group)
        except OSError as error:
            if error.errno not in {errno.ENXIO, errno.EREMOTEIO}:  # nobody there: as usual when one looks
                _report.warning("a transfer fails: %s", error)
        finally:
            # Those that were not carried out; the last one is this request, which is completed by itself.
            for each in group:
                if each.alive and each.writable:  # else it was carried out
                    refuse(each, I2cStatus.ERR, most=MAX_MESSAGE)
                if each is not request and each.alive:
                    each.complete()

    def _transfer(self, group: list[Request]) -> None:
        if not self.driver_features & I2cFeature.ZERO_LENGTH_REQUEST:
            raise Refuse(errno.EOPNOTSUPP, "the driver does not take ZERO_LENGTH_REQUEST (5.16.6.3)")
        if len(group) > MAX_MESSAGES:
            raise Refuse(errno.EINVAL, f"more than {MAX_MESSAGES} messages in a transfer")
        # Looked at before anything is done: a transfer that makes no sense does nothing.
        messages = [(_address(each.header[0]), _message(each), each) for each in group]
        for address, run in itertools.groupby(messages, key=lambda message: message[0]):
            target = self.targets.get(address)
            if target is None:
                raise Refuse(errno.ENXIO, f"nobody answers at {address:#x}")
            part = list(run)
            self._carried_out(target.transfer(address, [message for _, message, _ in part]), part)

    @staticmethod
    def _carried_out(results: list[bytes], part: list[tuple[int, Message, Request]]) -> None:
        found: Iterator[bytes] = iter(results)
        for _, message, request in part:
            if isinstance(message, int):
                request.write(next(found))
            request.write(bytes((I2cStatus.OK,)))

    def fail(self, request: Request, exception: BaseException) -> None:
        """What could not even be looked at."""
        del exception
        refuse(request, I2cStatus.ERR, most=MAX_MESSAGE)
        request.complete()


def _address(field: int) -> int:
    """The address; ten bits have the mark 11110 in the lower byte."""
    if field & 1 == 0 and field >> 8 == 0 and field & 0xF8 != 0xF0:
        return field >> 1
    if field & 0xF9 == 0xF0 and (ten := (field & 6) << 7 | field >> 8) >= 0x80:
        return ten
    raise Refuse(errno.EINVAL, f"{field:#06x} is not an address")


def _message(request: Request) -> Message:
    """What the request writes, or how many bytes it reads."""
    _, flags = request.header
    if flags & I2cFlag.READ:
        size = request.writable - RESULT
        if request.readable or not 0 <= size <= MAX_MESSAGE:
            raise Refuse(errno.EINVAL, f"a message that reads {size} bytes")
        return size
    if request.writable != RESULT or request.readable > MAX_MESSAGE:
        raise Refuse(errno.EINVAL, f"a message that writes {request.readable} bytes")
    return request.read()
