"""Which features were offered and acknowledged: the one copy of it in a session (C022 to C034)."""

from dataclasses import dataclass

from vhost_user.spec.features import VHOST_USER_FEATURES, ProtocolFeature, VirtioFeature
from vhost_user.spec.table import RequestRow


def bit_names(bits: int, kind: type[VirtioFeature] | type[ProtocolFeature]) -> str:
    """The bits by name where they have one, by number where not."""
    names = []
    for position in range(bits.bit_length()):
        if bits >> position & 1:
            member = kind(1 << position)
            names.append(
                member.name if member in kind.__members__.values() and member.name else f"bit {position}"
            )
    return ", ".join(names) or "none"


@dataclass(slots=True)
class Negotiation:
    """Feature bits of one connection. A new connection starts with a new one (C032).

    ``shmem`` is the bit that means SHMEM to the peer; old rust-vmm has it at 21 (see
    ``Quirk.SHMEM_AT_BIT_21``). ``features_set`` and ``protocol_features_set`` tell whether SET_FEATURES and
    SET_PROTOCOL_FEATURES were carried out.
    """

    offered_features: int = 0
    offered_protocol_features: int = 0
    acked_features: int = 0
    acked_protocol_features: int = 0
    shmem: ProtocolFeature = ProtocolFeature.SHMEM
    features_set: bool = False
    protocol_features_set: bool = False

    @property
    def knows_ring_states(self) -> bool:
        """Whether rings are enabled and disabled by message: bit 30 is acknowledged, or about to be (C063).

        QEMU's net enables its rings before it sends SET_FEATURES. Until that comes, a peer that was offered
        bit 30 and has negotiated protocol features has shown that it will acknowledge it.
        """
        bit_30 = VirtioFeature.PROTOCOL_FEATURES
        if self.has_feature(bit_30):
            return True
        return not self.features_set and self.protocol_features_set and bool(self.offered_features & bit_30)

    def commit_features(self, features: int) -> None:
        """SET_FEATURES was carried out."""
        self.acked_features = features
        self.features_set = True

    def commit_protocol_features(self, features: int) -> None:
        """SET_PROTOCOL_FEATURES was carried out."""
        self.acked_protocol_features = features
        self.protocol_features_set = True

    def forget_features(self) -> None:
        """The driver's features are to be negotiated anew; the protocol features stay."""
        self.acked_features = 0
        self.features_set = False

    @property
    def device_features(self) -> int:
        """Acknowledged features without the bits of vhost-user, as the device may see them (C030, V048)."""
        return int(self.acked_features) & ~VHOST_USER_FEATURES

    @property
    def reply_ack(self) -> bool:
        """Whether REPLY_ACK is negotiated (C093)."""
        return self.has_protocol_feature(ProtocolFeature.REPLY_ACK)

    def has_feature(self, feature: int) -> bool:
        """Whether all bits of ``feature`` are acknowledged virtio features."""
        return self.acked_features & feature == feature

    def has_protocol_feature(self, feature: int) -> bool:
        """Whether all bits of ``feature`` are acknowledged protocol features."""
        return self.acked_protocol_features & feature == feature

    def objection(self, row: RequestRow, fds: int = 0) -> tuple[str, str] | None:
        """Why this message with ``fds`` descriptors is not legal now, as (rule, reason); None when it is."""
        if row.offered_feature is not None and not self.offered_features & row.offered_feature:
            return "C023", f"needs feature {row.offered_feature.name} to be offered"
        if row.protocol_feature is not None:
            feature = self.shmem if row.protocol_feature is ProtocolFeature.SHMEM else row.protocol_feature
            if not self.acked_protocol_features & feature:
                return "C024", f"needs protocol feature {row.protocol_feature.name}, which is not negotiated"
        if row.virtio_feature is not None and not self._negotiated(row.virtio_feature):
            return "C024", f"needs feature {row.virtio_feature.name}, which is not negotiated"
        if fds and row.fd_feature is not None and not self.acked_protocol_features & row.fd_feature:
            return "C099", f"carries a file descriptor without protocol feature {row.fd_feature.name}"
        return None

    def _negotiated(self, feature: VirtioFeature) -> bool:
        if feature is VirtioFeature.PROTOCOL_FEATURES:
            return self.knows_ring_states
        return self.has_feature(feature)
