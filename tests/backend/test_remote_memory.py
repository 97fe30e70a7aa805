"""The option that lets guest memory lie on file systems that may never answer (C036)."""

from __future__ import annotations

import argparse

import pytest

from vhost_user.backend.serve import add_serve_arguments, serve_options


@pytest.mark.parametrize("given", [False, True])
def test_C036_the_option_of_the_command(given: bool) -> None:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    argv = ["--socket-path=x", *(["--allow-remote-memory"] if given else [])]
    assert serve_options(parser.parse_args(argv)).allow_remote_memory is given
