"""The load generator and the comparison of back-ends: ``vhost-user bench`` and ``./bench``.

``measure`` puts one load on one block back-end; ``comparison`` takes several back-ends in turn. Nothing here
is imported unless asked for.
"""
