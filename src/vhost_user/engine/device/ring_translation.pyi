"""Chains behind an IOMMU. Nothing of it is visible from Python; see vring.pyi."""
