"""The databases of tests of ``absurd.testing``: on the server of the suite, and not on one more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from absurd.testing import Databases


@pytest.fixture(scope="session")
def absurd_databases(server_url: str) -> Iterator[Databases]:
    """In the place of the plugin's fixture."""
    databases = Databases(server_url)
    yield databases
    databases.close()
