"""Messages from the front-end to the back-end, ids 1 to 44 (protocol.md 1.3; "Front-end message types")."""

from enum import IntEnum

from vhost_user.spec import rules
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import (
    U64,
    Config,
    CryptoSession,
    Inflight,
    Iotlb,
    Log,
    Memory,
    MemorySlot,
    SharedUuid,
    ShmemConfig,
    TransferReply,
    TransferState,
    VringAddress,
    VringFd,
    VringState,
    XenMemory,
    XenMemorySlot,
)
from vhost_user.spec.table import (
    FD_CLOSED,
    FD_IF_MAPPED,
    FD_OR_NONE,
    FD_PER_REGION,
    FD_UNLESS_BIT_8,
    FD_UNLESS_FAILED,
    ONE_FD,
    Direction,
    ReplyKind,
    RequestRow,
    RequestTable,
)


class FrontendRequest(IntEnum):
    """Ids of the messages that the front-end sends."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44


_ROWS = (
    RequestRow(
        request=FrontendRequest.GET_FEATURES,
        reply=ReplyKind.PAYLOAD,
        reply_payload=U64,
        value_type=VirtioFeature,
        section="Front-end message types, C022",
        description="Ask which features the back-end offers; also used as a barrier.",
    ),
    RequestRow(
        request=FrontendRequest.SET_FEATURES,
        payload=U64,
        value_type=VirtioFeature,
        section="Front-end message types, C026 C029 C030 C062",
        description="Acknowledge features; without bit 30 all rings are enabled at once.",
    ),
    RequestRow(
        request=FrontendRequest.SET_OWNER,
        section="Front-end message types",
        description="The sender owns the session from now on.",
    ),
    RequestRow(
        request=FrontendRequest.RESET_OWNER,
        section="Front-end message types, C033",
        description="Deprecated: ignore it or disable all rings; memory and protocol features survive.",
    ),
    RequestRow(
        request=FrontendRequest.SET_MEM_TABLE,
        payload=Memory,
        variants=((ProtocolFeature.XEN_MMAP, XenMemory),),
        fds=FD_PER_REGION,
        postcopy_reply=Memory,
        rules=rules.MEMORY,
        section="Front-end message types, C035 to C041",
        description="Replace the whole memory map.",
    ),
    RequestRow(
        request=FrontendRequest.SET_LOG_BASE,
        payload=Log,
        fds=ONE_FD,
        reply=ReplyKind.STATUS,
        reply_payload=U64,
        reply_feature=ProtocolFeature.LOG_SHMFD,
        error_reply=rules.STATUS_ERROR,
        protocol_feature=ProtocolFeature.LOG_SHMFD,
        rules=rules.LOG,
        section="Migration, C081 C082",
        description="Install the dirty log.",
    ),
    RequestRow(
        request=FrontendRequest.SET_LOG_FD,
        fds=ONE_FD,
        section="Migration, C083",
        description="An eventfd to signal when the log changed.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_NUM,
        payload=VringState,
        rules=rules.QUEUE_SIZE,
        section="Front-end message types, C070",
        description="Size of a ring.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_ADDR,
        payload=VringAddress,
        rules=rules.RING_ADDRESSES,
        section="Front-end message types, C071 C079",
        description="Addresses of a ring, and whether writes to its used part are logged.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_BASE,
        payload=VringState,
        section="Front-end message types, C057 to C059",
        description="Next available index of a ring; for packed rings both indices with their wrap counters.",
    ),
    RequestRow(
        request=FrontendRequest.GET_VRING_BASE,
        payload=VringState,
        reply=ReplyKind.PAYLOAD,
        reply_payload=VringState,
        reply_rules=rules.SAME_INDEX,
        section="Front-end message types, C053 to C058",
        description="Stop a ring and tell its next available index; num=1 skips the drain with GET_VRING_BASE_INFLIGHT.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_KICK,
        payload=VringFd,
        fds=FD_UNLESS_BIT_8,
        rules=rules.INDEX_BITS,
        section="Ring states, C050 C052 C066",
        description="Start a ring; its kicks arrive on this fd, or the ring is polled.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_CALL,
        payload=VringFd,
        fds=FD_UNLESS_BIT_8,
        rules=rules.INDEX_BITS,
        section="Front-end message types, C052 C065",
        description="Where to signal used buffers of a ring.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_ERR,
        payload=VringFd,
        fds=FD_UNLESS_BIT_8,
        rules=rules.INDEX_BITS,
        section="Front-end message types, C052",
        description="Where to signal errors of a ring.",
    ),
    RequestRow(
        request=FrontendRequest.GET_PROTOCOL_FEATURES,
        reply=ReplyKind.PAYLOAD,
        reply_payload=U64,
        offered_feature=VirtioFeature.PROTOCOL_FEATURES,
        value_type=ProtocolFeature,
        section="Protocol features, C022 C023",
        description="Ask which protocol features the back-end offers.",
    ),
    RequestRow(
        request=FrontendRequest.SET_PROTOCOL_FEATURES,
        payload=U64,
        offered_feature=VirtioFeature.PROTOCOL_FEATURES,
        value_type=ProtocolFeature,
        section="Protocol features, C022 to C028",
        description="Acknowledge protocol features.",
    ),
    RequestRow(
        request=FrontendRequest.GET_QUEUE_NUM,
        reply=ReplyKind.PAYLOAD,
        reply_payload=U64,
        protocol_feature=ProtocolFeature.MQ,
        reply_rules=rules.QUEUE_COUNT,
        section="Multiple queue support, C031",
        description="Ask how many queues the back-end has at most.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_ENABLE,
        payload=VringState,
        virtio_feature=VirtioFeature.PROTOCOL_FEATURES,
        rules=rules.ENABLE,
        section="Ring states, C061 to C064",
        description="Enable (1) or disable (0) a ring.",
    ),
    RequestRow(
        request=FrontendRequest.SEND_RARP,
        payload=U64,
        protocol_feature=ProtocolFeature.RARP,
        section="Front-end message types",
        description="Broadcast a RARP for the MAC address in the first six bytes.",
    ),
    RequestRow(
        request=FrontendRequest.NET_SET_MTU,
        payload=U64,
        protocol_feature=ProtocolFeature.MTU,
        rules=rules.MTU,
        section="Front-end message types",
        description="MTU of a net device, when VIRTIO_NET_F_MTU is in use.",
    ),
    RequestRow(
        request=FrontendRequest.SET_BACKEND_REQ_FD,
        fds=ONE_FD,
        protocol_feature=ProtocolFeature.BACKEND_REQ,
        section="Back-end communication, C098",
        description="The socket of the back channel; replaces an earlier one.",
    ),
    RequestRow(
        request=FrontendRequest.IOTLB_MSG,
        payload=Iotlb,
        reply=ReplyKind.STATUS,
        reply_payload=U64,
        error_reply=rules.STATUS_ERROR,
        virtio_feature=VirtioFeature.ACCESS_PLATFORM,
        rules=rules.IOTLB_TO_BACKEND,
        section="IOMMU support, C088 to C092",
        description="Update or invalidate an IOTLB entry.",
    ),
    RequestRow(
        request=FrontendRequest.SET_VRING_ENDIAN,
        payload=VringState,
        protocol_feature=ProtocolFeature.CROSS_ENDIAN,
        rules=rules.ENDIAN,
        section="Front-end message types",
        description="Byte order of a legacy ring: 0 little, 1 big.",
    ),
    RequestRow(
        request=FrontendRequest.GET_CONFIG,
        payload=Config,
        reply=ReplyKind.PAYLOAD,
        reply_payload=Config,
        error_reply=rules.CONFIG_ERROR,
        protocol_feature=ProtocolFeature.CONFIG,
        rules=rules.GET_CONFIG,
        reply_rules=rules.SAME_CONFIG,
        section="Front-end message types, C128",
        description="Read the configuration space.",
    ),
    RequestRow(
        request=FrontendRequest.SET_CONFIG,
        payload=Config,
        protocol_feature=ProtocolFeature.CONFIG,
        rules=rules.SET_CONFIG,
        section="Front-end message types, C129",
        description="Write the configuration space.",
    ),
    RequestRow(
        request=FrontendRequest.CREATE_CRYPTO_SESSION,
        payload=CryptoSession,
        reply=ReplyKind.PAYLOAD,
        reply_payload=CryptoSession,
        error_reply=rules.SESSION_ERROR,
        protocol_feature=ProtocolFeature.CRYPTO_SESSION,
        section="Front-end message types",
        description="Open a crypto session.",
    ),
    RequestRow(
        request=FrontendRequest.CLOSE_CRYPTO_SESSION,
        payload=U64,
        protocol_feature=ProtocolFeature.CRYPTO_SESSION,
        section="Front-end message types",
        description="Close a crypto session.",
    ),
    RequestRow(
        request=FrontendRequest.POSTCOPY_ADVISE,
        reply=ReplyKind.PAYLOAD,
        reply_fds=FD_OR_NONE,
        error_reply=rules.NO_FD_ERROR,
        protocol_feature=ProtocolFeature.PAGEFAULT,
        section="Migration, C118",
        description="Post-copy is coming: hand over a userfaultfd.",
    ),
    RequestRow(
        request=FrontendRequest.POSTCOPY_LISTEN,
        protocol_feature=ProtocolFeature.PAGEFAULT,
        section="Migration, C118",
        description="Register memory with the userfaultfd from now on.",
    ),
    RequestRow(
        request=FrontendRequest.POSTCOPY_END,
        reply=ReplyKind.STATUS,
        reply_payload=U64,
        error_reply=rules.STATUS_ERROR,
        protocol_feature=ProtocolFeature.PAGEFAULT,
        section="Migration, C120",
        description="Post-copy is over: close the userfaultfd.",
    ),
    RequestRow(
        request=FrontendRequest.GET_INFLIGHT_FD,
        payload=Inflight,
        reply=ReplyKind.PAYLOAD,
        reply_payload=Inflight,
        reply_fds=FD_IF_MAPPED,
        error_reply=rules.INFLIGHT_ERROR,
        protocol_feature=ProtocolFeature.INFLIGHT_SHMFD,
        rules=rules.GET_INFLIGHT,
        reply_rules=rules.INFLIGHT_REPLY,
        section="Inflight I/O tracking, C106",
        description="Make an area that tracks requests in flight.",
    ),
    RequestRow(
        request=FrontendRequest.SET_INFLIGHT_FD,
        payload=Inflight,
        fds=ONE_FD,
        protocol_feature=ProtocolFeature.INFLIGHT_SHMFD,
        rules=rules.SET_INFLIGHT,
        section="Inflight I/O tracking, C107",
        description="Adopt a tracking area and recover from it.",
    ),
    RequestRow(
        request=FrontendRequest.GPU_SET_SOCKET,
        fds=ONE_FD,
        section="Front-end message types",
        description="The socket of the vhost-user-gpu protocol.",
    ),
    RequestRow(
        request=FrontendRequest.RESET_DEVICE,
        protocol_feature=ProtocolFeature.RESET_DEVICE,
        section="Front-end message types, C075",
        description="Disable all rings and reset the device; ownership and protocol features stay.",
    ),
    RequestRow(
        request=FrontendRequest.VRING_KICK,
        payload=VringState,
        protocol_feature=ProtocolFeature.INBAND_NOTIFICATIONS,
        rules=rules.IN_BAND,
        section="In-band notifications, C133",
        description="A kick as a message; starts the ring.",
    ),
    RequestRow(
        request=FrontendRequest.GET_MAX_MEM_SLOTS,
        reply=ReplyKind.PAYLOAD,
        reply_payload=U64,
        protocol_feature=ProtocolFeature.CONFIGURE_MEM_SLOTS,
        reply_rules=rules.SLOT_COUNT,
        section="Front-end message types, C043",
        description="Ask how many memory regions the back-end can have.",
    ),
    RequestRow(
        request=FrontendRequest.ADD_MEM_REG,
        payload=MemorySlot,
        variants=((ProtocolFeature.XEN_MMAP, XenMemorySlot),),
        fds=ONE_FD,
        postcopy_reply=MemorySlot,
        protocol_feature=ProtocolFeature.CONFIGURE_MEM_SLOTS,
        rules=rules.MEMORY_SLOT,
        section="Front-end message types, C042",
        description="Add one region to the memory map.",
    ),
    RequestRow(
        request=FrontendRequest.REM_MEM_REG,
        payload=MemorySlot,
        variants=((ProtocolFeature.XEN_MMAP, XenMemorySlot),),
        fds=FD_CLOSED,
        protocol_feature=ProtocolFeature.CONFIGURE_MEM_SLOTS,
        rules=rules.MEMORY_SLOT,
        section="Front-end message types, C042 C044",
        description="Remove one region, found by guest address, user address and size.",
    ),
    RequestRow(
        request=FrontendRequest.SET_STATUS,
        payload=U64,
        protocol_feature=ProtocolFeature.STATUS,
        value_type=DeviceStatus,
        rules=rules.STATUS,
        section="Front-end message types, C131",
        description="Device status byte; 0 resets.",
    ),
    RequestRow(
        request=FrontendRequest.GET_STATUS,
        reply=ReplyKind.PAYLOAD,
        reply_payload=U64,
        protocol_feature=ProtocolFeature.STATUS,
        value_type=DeviceStatus,
        reply_rules=rules.STATUS_REPLY,
        section="Front-end message types, C131",
        description="Ask for the device status byte.",
    ),
    RequestRow(
        request=FrontendRequest.GET_SHARED_OBJECT,
        payload=SharedUuid,
        reply=ReplyKind.PAYLOAD,
        reply_fds=FD_OR_NONE,
        error_reply=rules.NO_FD_ERROR,
        protocol_feature=ProtocolFeature.SHARED_OBJECT,
        section="Front-end message types, H56",
        description="Ask for the dmabuf of a shared object.",
    ),
    RequestRow(
        request=FrontendRequest.SET_DEVICE_STATE_FD,
        payload=TransferState,
        fds=ONE_FD,
        reply=ReplyKind.PAYLOAD,
        reply_payload=TransferReply,
        reply_fds=FD_UNLESS_FAILED,
        error_reply=rules.TRANSFER_ERROR,
        protocol_feature=ProtocolFeature.DEVICE_STATE,
        rules=rules.TRANSFER,
        reply_rules=rules.TRANSFER_REPLY,
        section="Migrating back-end state, C122 to C124",
        description="Start to save or load the device's state through a pipe.",
    ),
    RequestRow(
        request=FrontendRequest.CHECK_DEVICE_STATE,
        reply=ReplyKind.STATUS,
        reply_payload=U64,
        error_reply=rules.STATUS_ERROR,
        protocol_feature=ProtocolFeature.DEVICE_STATE,
        section="Migrating back-end state, C125",
        description="Ask whether the transfer of state went well.",
    ),
    RequestRow(
        request=FrontendRequest.GET_SHMEM_CONFIG,
        reply=ReplyKind.PAYLOAD,
        reply_payload=ShmemConfig,
        protocol_feature=ProtocolFeature.SHMEM,
        reply_rules=rules.SHMEM_CONFIG,
        section="Front-end message types, C105",
        description="Ask for the VIRTIO shared memory regions and their sizes.",
    ),
)

FRONTEND_REQUESTS = RequestTable(Direction.TO_BACKEND, _ROWS)
"""Every message of the front-end."""
