"""Servers with a fake engine, as the tests of the HTTP side have them."""

from tests.api.conftest import launch, no_settings_from_outside

__all__ = ["launch", "no_settings_from_outside"]
