"""The load generator: ``vhost-user bench`` (layer 6).

``measure`` puts one load on one block back-end. Nothing here is imported unless asked for.
"""
