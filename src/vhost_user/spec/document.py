"""The message table of the documentation; run as ``python -m vhost_user.spec.document`` it prints it."""

import sys

from vhost_user.spec.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS
from vhost_user.spec.structs import Empty
from vhost_user.spec.table import NO_FD, ReplyKind, RequestRow, RequestTable

_HEAD = """# Messages of vhost-user

Written by `python -m vhost_user.spec.document > docs/messages.md` from the request table in
`vhost_user.spec`; a test holds it current. Ids like C071 and H05 name rules; tests carry them in their names.

Sizes are in bytes. "ack" is the u64 of REPLY_ACK, sent when the request has NEED_REPLY and the feature
is negotiated. A refused request gets a non-zero ack, or the error reply where the message has a reply of
its own; where that has no way to say no, the connection is closed.
"""
_BASES = """## Bases of packed rings

GET_VRING_BASE tells both positions of a packed ring: bits 0 to 14 are the available index, 15 its wrap
counter, 16 to 30 the used index, 31 its wrap counter (C057). SET_VRING_BASE takes that, and two shorter
forms:

- **The upper half is zero** (DPDK's virtio-user sends 0x8000): the used position is the available one.
  Nothing is lost by that. The reply to GET_VRING_BASE comes after every request in flight, so the halves of
  what it told are equal: an upper half of zero in a whole base, used index and counter 0, stands beside a
  lower half of zero. Only a ring that was not drained has two positions, and where it goes on is not in its
  base: the in-flight area says which requests were taken (C107, C111).
- **Plain 0** is said of a new ring (user-mode Linux; as for a split ring) as well as of one that stopped at
  index 0 after an odd number of laps. In the new one both wrap counters are 1; in the other both are 0. The
  descriptors tell which it is when the ring starts: no descriptor of a new ring has its USED bit, because
  the driver clears it for the first lap and no device has written. Of the other ring at least one has it:
  no buffer is longer than the ring, so the last used descriptor before index 0 was written in the lap with
  the counter 1, USED and AVAIL set (V027); and if the driver has made its place available since, for the
  lap with the counter 0, with USED set and AVAIL clear (V024).
"""
_POSTCOPY = """## Memory in post-copy

Between POSTCOPY_LISTEN, which comes before any memory, and POSTCOPY_END the back-end answers SET_MEM_TABLE
and ADD_MEM_REG with the same payload, in which the user address of each region is the one at which it has
that region: faults there come out of the userfaultfd of POSTCOPY_ADVISE. There is no ack, and no way to say
no. The memory may not be touched before the front-end says that it serves these faults, by a message whose
payload is a u64 of 0 (C119). It is not answered, and its number is that of the message before it: QEMU adds
and removes regions one by one and says it once, with ADD_MEM_REG, with REM_MEM_REG, or with 0 when nothing
had changed. POSTCOPY_END also ends what was announced and never needed (C120).
"""
_COLUMNS = ("Id", "Name", "Payload", "fds", "Reply", "Error reply", "Needs", "Rules", "Meaning")


def _payload(row: RequestRow) -> str:
    if row.payload is Empty:
        return ""
    kinds = [row.payload, *(kind for _, kind in row.variants)]
    return " or ".join(f"{kind.__name__} ({kind.size_text()})" for kind in kinds)


def _reply(row: RequestRow) -> str:
    if row.reply is ReplyKind.ACK:
        return "ack" if row.postcopy_reply is None else f"ack; in post-copy {row.postcopy_reply.__name__}"
    text = row.reply_payload.__name__ if row.reply is ReplyKind.PAYLOAD else "u64 status"
    return text if row.reply_fds is NO_FD else f"{text} + fds: {row.reply_fds.text}"


def _error(row: RequestRow) -> str:
    if row.reply is ReplyKind.ACK:
        return "ack 1"
    return row.error_reply.text if row.error_reply else "close"


def _needs(row: RequestRow) -> str:
    needs = [
        feature.name or str(feature)
        for feature in (row.protocol_feature, row.virtio_feature)
        if feature is not None
    ]
    if row.offered_feature is not None:
        needs.append(f"{row.offered_feature.name} offered")
    if row.fd_feature is not None:
        needs.append(f"{row.fd_feature.name} for fds")
    return ", ".join(needs)


def _rules(row: RequestRow) -> str:
    identifiers = [rule.identifier for rule in row.rules] + [rule.identifier for rule in row.reply_rules]
    return " ".join(dict.fromkeys(identifiers))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(table: RequestTable) -> str:
    lines = [f"## {table.direction.value.capitalize()}", "", _line(_COLUMNS), _line(("---",) * len(_COLUMNS))]
    for row in table:
        meaning = f"{row.description} ({row.section})"
        cells = (str(row.id), row.name, _payload(row), row.fds.text)
        lines.append(_line((*cells, _reply(row), _error(row), _needs(row), _rules(row), meaning)))
    return "\n".join(lines) + "\n"


def messages() -> str:
    """The whole of docs/messages.md."""
    return "\n".join((_HEAD, _table(FRONTEND_REQUESTS), _table(BACKEND_REQUESTS), _BASES, _POSTCOPY))


if __name__ == "__main__":
    sys.stdout.write(messages())
