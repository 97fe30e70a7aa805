"""Feature bits have the numbers of the specification."""

from vhost_user.spec.features import VHOST_USER_FEATURES, DeviceId, ProtocolFeature, VirtioFeature


def test_protocol_features_are_bits_0_to_22_in_order() -> None:
    assert [int(feature) for feature in ProtocolFeature] == [1 << bit for bit in range(23)]


def test_protocol_feature_numbers_that_are_often_wrong() -> None:
    assert ProtocolFeature.GPA_ADDRESSES == 1 << 21
    assert ProtocolFeature.SHMEM == 1 << 22
    assert ProtocolFeature.GET_VRING_BASE_INFLIGHT == 1 << 20


def test_virtio_feature_numbers() -> None:
    bits = {feature.name: feature.bit_length() - 1 for feature in VirtioFeature}
    assert bits == {
        "NOTIFY_ON_EMPTY": 24,
        "LOG_ALL": 26,
        "ANY_LAYOUT": 27,
        "RING_INDIRECT_DESC": 28,
        "RING_EVENT_IDX": 29,
        "PROTOCOL_FEATURES": 30,
        "VERSION_1": 32,
        "ACCESS_PLATFORM": 33,
        "RING_PACKED": 34,
        "IN_ORDER": 35,
        "ORDER_PLATFORM": 36,
        "SR_IOV": 37,
        "NOTIFICATION_DATA": 38,
        "NOTIF_CONFIG_DATA": 39,
        "RING_RESET": 40,
        "ADMIN_VQ": 41,
        "SUSPEND": 43,
    }


def test_V048_bits_of_vhost_user_are_26_and_30() -> None:
    assert type(VHOST_USER_FEATURES) is int, "the complement of an IntFlag loses bits without a name"
    assert VHOST_USER_FEATURES == 1 << 26 | 1 << 30


def test_device_ids() -> None:
    ids = {kind.name: int(kind) for kind in DeviceId}
    assert (ids["NET"], ids["BLK"], ids["CONSOLE"], ids["RNG"]) == (1, 2, 3, 4)
    assert (ids["INPUT"], ids["VSOCK"], ids["FS"], ids["I2C"], ids["GPIO"]) == (18, 19, 26, 34, 41)
