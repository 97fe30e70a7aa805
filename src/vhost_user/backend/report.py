"""What a daemon is doing, as plain data: for the control socket, and for whoever wants to show it.

Everything here may be called from any thread. Nothing calls into the device, and the vrings' own locks are
held for no longer than it takes to copy a number, so that looking holds up nobody. What is looked at goes on
meanwhile: numbers that belong together may be a moment apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vhost_user.protocol.negotiation import bit_names
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature

if TYPE_CHECKING:
    from vhost_user.backend.daemon import VhostUserDaemon
    from vhost_user.engine.device.vring import Vring

MAX_HEADS = 16
"""Requests in flight that are named of one queue; the others are only counted."""

Report = dict[str, Any]


def status(daemon: VhostUserDaemon) -> Report:
    """The whole in a few lines: who is served, and how many rings are in which state."""
    states: dict[str, int] = {}
    for vring in daemon.vrings:
        state = ring_state(vring)
        states[state] = states.get(state, 0) + 1
    return {
        "name": daemon.name,
        "device": type(daemon.backend).__name__,
        "connected": daemon.connected,
        "sessions": daemon.sessions,
        "last_session_end": daemon.session_end_reason,
        "failure": None if daemon.failure is None else str(daemon.failure),
        "rings": states,
        "requests": sum(vring.statistics()["requests"] for vring in daemon.vrings),
        "in_flight": sum(vring.in_flight for vring in daemon.vrings),
        "ended_workers": daemon.ended_workers,
    }


def ring_state(vring: Vring) -> str:
    """One word: ``broken``, ``stopped``, ``disabled``, ``held``, ``unmapped`` or ``running``."""
    if vring.broken is not None:
        return "broken"
    if not vring.started:
        return "stopped"
    if not vring.enabled:
        return "disabled"
    if vring.suspended:
        return "held"
    return "running" if vring.mapped else "unmapped"


def queues(daemon: VhostUserDaemon) -> list[Report]:
    """Each queue: its ring, its worker, its counters."""
    worker_of = {
        vring.index: number for number, worker in enumerate(daemon.workers) for vring in worker.vrings
    }
    return [_queue(vring, worker_of.get(vring.index)) for vring in daemon.vrings]


def _queue(vring: Vring, worker: int | None) -> Report:
    broken = vring.broken
    return {
        "queue": vring.index,
        "state": ring_state(vring),
        "broken": None if broken is None else str(broken),
        "layout": "packed" if vring.packed else "split",
        "size": vring.size,
        "largest_size": vring.max_size,
        "base": vring.base(),
        "in_flight": vring.in_flight,
        "heads_in_flight": vring.heads_in_flight()[:MAX_HEADS],
        "kick": vring.has_kick,
        "call": vring.has_call,
        "worker": worker,
        "counters": vring.statistics(),
    }


def workers(daemon: VhostUserDaemon) -> list[Report]:
    """Each worker: its queues, whether it runs, its counters."""
    ended = set(daemon.ended_workers)
    return [
        {
            "worker": number,
            "state": "ended" if number in ended else "running",
            "queues": [vring.index for vring in worker.vrings],
            "counters": worker.statistics(),
        }
        for number, worker in enumerate(daemon.workers)
    ]


def features(daemon: VhostUserDaemon) -> Report:
    """What is offered, and what the present front-end acknowledged, by name."""
    session = daemon.session
    offered, offered_protocol = daemon.offered
    acked, acked_protocol = 0, 0
    if session is not None:
        negotiation = session.negotiation
        offered, acked = negotiation.offered_features, negotiation.acked_features
        offered_protocol = negotiation.offered_protocol_features
        acked_protocol = negotiation.acked_protocol_features
    return {
        "offered": _bits(offered, VirtioFeature),
        "acknowledged": _bits(acked, VirtioFeature),
        "protocol_offered": _bits(offered_protocol, ProtocolFeature),
        "protocol_acknowledged": _bits(acked_protocol, ProtocolFeature),
    }


def _bits(bits: int, kind: type[VirtioFeature] | type[ProtocolFeature]) -> Report:
    return {"bits": f"{int(bits):#x}", "names": bit_names(bits, kind).split(", ") if bits else []}


def session(daemon: VhostUserDaemon) -> Report | None:
    """The front-end that is served now, its memory among the rest; None when there is none."""
    state = daemon.session
    if state is None:
        return None
    memory = daemon.memory.memory()
    return {
        "number": daemon.sessions,
        "owner_set": state.owned,
        "driver_status": _status_words(state.status),
        "back_channel": state.channel is not None and not state.channel.closed,
        "dirty_log": state.bitmap.enabled,
        "memory_lost": memory.lost,
        "memory": [
            {"guest_address": f"{region.guest_address:#x}", "size": region.size} for region in memory.regions
        ],
    }


def _status_words(status: int | None) -> list[str] | None:
    """None for a front-end that does not tell."""
    if status is None:
        return None
    return [bit.name for bit in DeviceStatus if status & bit and bit.name is not None]
