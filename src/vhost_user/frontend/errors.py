"""What the front-end raises itself.

What the back-end says or does wrong comes as errors of ``vhost_user.protocol``.
"""

from vhost_user.protocol.errors import VhostUserError


class FrontendError(VhostUserError):
    """The back-end cannot be used as asked: a feature, queue or memory slot it does not have.

    ``rule`` is the rule concerned.
    """

    rule: str

    def __init__(self, message: str, *, rule: str = "") -> None:
        super().__init__(f"{message} [{rule}]" if rule else message)
        self.rule = rule


class DeviceError(FrontendError):
    """The device answered a request with an error, or with something its type does not allow.

    ``status`` is what it said.
    """

    def __init__(self, message: str, *, status: int = -1, rule: str = "") -> None:
        super().__init__(message, rule=rule)
        self.status = status
