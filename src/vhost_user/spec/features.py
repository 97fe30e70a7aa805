"""Feature bits and device ids: virtio 1.4 sections 5 and 6, vhost-user "Protocol features"."""

from enum import IntEnum, IntFlag


class VirtioFeature(IntFlag):
    """Bits of GET_FEATURES and SET_FEATURES that are the same for every device type.

    Bits 0-23 and 50-63 belong to the device type and stand in its own file of this package.
    """

    NOTIFY_ON_EMPTY = 1 << 24
    """Legacy: signal when the ring drains even if signals are suppressed (V020)."""
    LOG_ALL = 1 << 26
    """VHOST_F_LOG_ALL, owned by vhost-user: log every write to guest memory (C077, V048)."""
    ANY_LAYOUT = 1 << 27
    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    """VHOST_USER_F_PROTOCOL_FEATURES, owned by vhost-user (C022, C030)."""
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40
    ADMIN_VQ = 1 << 41
    SUSPEND = 1 << 43


# A plain number: the complement of an IntFlag has only bits that have a name.
VHOST_USER_FEATURES = int(VirtioFeature.LOG_ALL | VirtioFeature.PROTOCOL_FEATURES)
"""The bits that vhost-user owns: the device and the guest never see them (C030, V048)."""


class ProtocolFeature(IntFlag):
    """Bits of GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES ("Protocol features")."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    """QEMU acknowledges it without implementing it: do not offer it to QEMU."""
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    """QEMU acknowledges it without implementing it: do not offer it to QEMU."""
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    GPA_ADDRESSES = 1 << 21
    """rust-vmm's vhost up to 0.16 takes this bit for SHMEM: keep it switchable."""
    SHMEM = 1 << 22


class DeviceStatus(IntFlag):
    """The device status byte of SET_STATUS and GET_STATUS (virtio 1.4 section 2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class DeviceId(IntEnum):
    """Virtio device types (virtio 1.4 section 5)."""

    NET = 1
    BLK = 2
    CONSOLE = 3
    RNG = 4
    BALLOON = 5
    RPMSG = 7
    SCSI = 8
    NINE_P = 9
    RPROC_SERIAL = 11
    CAIF = 12
    GPU = 16
    RTC = 17
    INPUT = 18
    VSOCK = 19
    CRYPTO = 20
    SOUND = 25
    FS = 26
    PMEM = 27
    SCMI = 32
    I2C = 34
    CAN = 36
    GPIO = 41
    SPI = 45
    MEDIA = 48
