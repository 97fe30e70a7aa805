"""The base of the compiled fast paths: requests carried out without Python, in front of a device's handler.

``Vring.process(handler, …, fast_path=a)`` offers every request to ``a`` first. A fast path takes only what is
plain and declines the rest, which goes to the handler; so there is one place where errors are found and
reported.
"""

class FastPath:
    @property
    def accepted(self) -> int:
        """Requests carried out here."""
    @property
    def declined(self) -> int:
        """Requests left to the handler."""
    @property
    def fd(self) -> int: ...
    def settle(self) -> int: ...
    def statistics(self) -> dict[str, int]: ...
