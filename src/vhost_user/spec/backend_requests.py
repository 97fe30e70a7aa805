"""Messages from the back-end to the front-end on the back channel, ids 1 to 10 ("Back-end message types")."""

from vhost_user.spec import rules
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.ids import BackendRequest
from vhost_user.spec.structs import U64, Iotlb, SharedUuid, ShmemMap, VringArea, VringState
from vhost_user.spec.table import (
    FD_ON_SUCCESS,
    FD_UNLESS_BIT_8,
    ONE_FD,
    Direction,
    ReplyKind,
    RequestRow,
    RequestTable,
)

_ROWS = (
    RequestRow(
        request=BackendRequest.IOTLB_MSG,
        payload=Iotlb,
        virtio_feature=VirtioFeature.ACCESS_PLATFORM,
        rules=rules.IOTLB_TO_FRONTEND,
        section="Back-end message types, C090 C092",
        description="An IOTLB entry is missing, or an access failed.",
    ),
    RequestRow(
        request=BackendRequest.CONFIG_CHANGE_MSG,
        protocol_feature=ProtocolFeature.CONFIG,
        section="Back-end message types, C130",
        description="The configuration space changed.",
    ),
    RequestRow(
        request=BackendRequest.VRING_HOST_NOTIFIER_MSG,
        payload=VringArea,
        fds=FD_UNLESS_BIT_8,
        protocol_feature=ProtocolFeature.HOST_NOTIFIER,
        fd_feature=ProtocolFeature.BACKEND_SEND_FD,
        rules=rules.NOTIFIER,
        section="Back-end message types",
        description="Map a doorbell page for a ring, or take it back.",
    ),
    RequestRow(
        request=BackendRequest.VRING_CALL,
        payload=VringState,
        protocol_feature=ProtocolFeature.INBAND_NOTIFICATIONS,
        rules=rules.IN_BAND,
        section="In-band notifications, C133",
        description="Used buffers, as a message.",
    ),
    RequestRow(
        request=BackendRequest.VRING_ERR,
        payload=VringState,
        protocol_feature=ProtocolFeature.INBAND_NOTIFICATIONS,
        rules=rules.IN_BAND,
        section="In-band notifications, C133",
        description="A ring is broken, as a message.",
    ),
    RequestRow(
        request=BackendRequest.SHARED_OBJECT_ADD,
        payload=SharedUuid,
        protocol_feature=ProtocolFeature.SHARED_OBJECT,
        section="Back-end message types",
        description="Export a shared object.",
    ),
    RequestRow(
        request=BackendRequest.SHARED_OBJECT_REMOVE,
        payload=SharedUuid,
        protocol_feature=ProtocolFeature.SHARED_OBJECT,
        section="Back-end message types, C103",
        description="Take back a shared object; only its owner may.",
    ),
    RequestRow(
        request=BackendRequest.SHARED_OBJECT_LOOKUP,
        payload=SharedUuid,
        reply=ReplyKind.STATUS,
        reply_payload=U64,
        reply_fds=FD_ON_SUCCESS,
        error_reply=rules.STATUS_ERROR,
        protocol_feature=ProtocolFeature.SHARED_OBJECT,
        section="Back-end message types, C100",
        description="Import the dmabuf of a shared object.",
    ),
    RequestRow(
        request=BackendRequest.SHMEM_MAP,
        payload=ShmemMap,
        fds=ONE_FD,
        protocol_feature=ProtocolFeature.SHMEM,
        fd_feature=ProtocolFeature.BACKEND_SEND_FD,
        rules=rules.SHMEM_MAP,
        section="Back-end message types, C104",
        description="Map a file into a VIRTIO shared memory region.",
    ),
    RequestRow(
        request=BackendRequest.SHMEM_UNMAP,
        payload=ShmemMap,
        protocol_feature=ProtocolFeature.SHMEM,
        rules=rules.SHMEM_MAP,
        section="Back-end message types, C104",
        description="Remove one whole earlier mapping.",
    ),
)

BACKEND_REQUESTS = RequestTable(Direction.TO_FRONTEND, _ROWS)
"""Every message of the back-end."""
