"""``./bench``: back-ends of this project and of others under the same loads, in turn.

A tool of the repository, not of the package: it starts programs that only a checkout has. What puts a load
on one back-end is ``vhost_user.bench``.
"""
