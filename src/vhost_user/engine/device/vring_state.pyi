"""The state of a vring; all but the table is for the engine alone."""

RUNS_WHEN: dict[str, bool]
"""What each flag must be for requests to be taken."""
