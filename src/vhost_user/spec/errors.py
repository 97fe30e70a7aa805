"""The one root of every error of this package, and all of them at a glance.

* VhostUserError
  + ProtocolError           the peer broke the framing; the connection must be closed
  + RequestRefused          a request is not carried out; the connection lives on
  + Disconnected            the peer closed the connection
  + PeerTimeout             (TimeoutError) the peer neither read nor wrote in time
  + SocketError             (OSError) a socket cannot be listened on or connected to
  + OutstandingReplyError   (RuntimeError) one request at a time: its reply has not come yet
  + BackChannelError        a request to the front-end cannot be sent, or is not answered
  + StateFormatError        (ValueError) bytes are not a state of a device, or an object cannot be one
  + UpgradeError            the session cannot go to another process; it goes on here
    - SuccessorLostError    the other process had taken over and is gone
  + FrontendError           the back-end cannot be used as asked
    - DeviceError           the device answered with an error
  + EngineError             shared memory, rings and requests
    - MemoryTableError      a region cannot be mapped, or does not fit the table
    - MemoryFault           a guest address range is not mapped
    - MemoryLost            the front-end took its memory away
    - RingError             the driver broke a rule of the virtqueue
    - RequestError          a request was used in a way that it does not allow
    - RingSetupError        a ring is set up in a way that cannot work
      . RingValueError      (ValueError) a size, address or base that no ring can have
      . RingStateError      (RuntimeError) not now: the ring runs, or something is missing
    - DoorbellError         (ValueError) a file descriptor that cannot be a doorbell
    - DeviceBroken          a driver's view: the device broke a rule of the ring
    - QueueFull             a driver's view: no descriptors are free
  + StorageError            (ValueError) a file cannot be a disk
  + ImageInUseError         (OSError) another program has the image
  + MissingLibraryError     (ValueError) the library of a device's field is not installed
  + StateFormatError        (ValueError) bytes that are not a state, or an object that cannot become one
  + UpgradeError            there is no successor, or it cannot go on: this process does
    - SuccessorLostError    the successor had been told to go on and is gone

``rule`` of each is the id of the rule that is concerned, as docs/rules.md lists them, or None (or nothing)
where it is about none. Not here: errors of the commands and the test tools, and what is raised as an answer
or an outcome (``Refuse``, a check's ``Deviation``), not as an error.
"""

from __future__ import annotations


class VhostUserError(Exception):
    """Base of every error of this package. ``rule`` is the id of the rule concerned, or None."""

    rule: str | None = None
