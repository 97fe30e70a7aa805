"""The fuzzer: hostile front-ends and guests against any back-end, by name and by chance.

``vhost-user fuzz`` on the command line; as a library::

    from vhost_user.conformance import CommandTarget
    from vhost_user.fuzzing import Campaign

    with CommandTarget(["my-backend", "--socket-path={socket}"]) as target:
        outcome = Campaign(target, seed=1).run(60)
"""

from vhost_user.fuzzing.campaign import CRASH, GONE, HANG, LEAK, Campaign, Outcome, load, save, smaller
from vhost_user.fuzzing.case import Case
from vhost_user.fuzzing.cases import all_cases
from vhost_user.fuzzing.mutation import Mutator
from vhost_user.fuzzing.sessions import Script
from vhost_user.fuzzing.steps import Player, Step
from vhost_user.fuzzing.watcher import Finding, Watcher

__all__ = [
    "CRASH",
    "GONE",
    "HANG",
    "LEAK",
    "Campaign",
    "Case",
    "Finding",
    "Mutator",
    "Outcome",
    "Player",
    "Script",
    "Step",
    "Watcher",
    "all_cases",
    "load",
    "save",
    "smaller",
]
