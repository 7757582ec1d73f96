"""Servers that some ways to call wrong need."""

from collections.abc import Callable

import pytest

from ..conftest import Server


@pytest.fixture
def loading_server(serve: Callable[..., Server]) -> Server:
    """It never loads its model."""
    return serve(load=False)


@pytest.fixture
def small_server(serve: Callable[..., Server]) -> Server:
    """It allows two open calls."""
    return serve(max_open_calls=2)
