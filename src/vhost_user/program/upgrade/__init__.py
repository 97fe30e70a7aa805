"""Upgrade without a disconnect: a successor is started, and given everything (docs/upgrade.md)."""
