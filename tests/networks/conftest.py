"""What the tests of networks share."""

import socket

import pytest

from tests.networks.checkpoint_files import network


@pytest.fixture(scope="module")
def wrn():
    return network("wrn-10-1", 10, 32)


@pytest.fixture
def without_a_network(monkeypatch):
    """The internet is out of reach: what a test needs must be on this machine."""

    def refuse(*_):
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
