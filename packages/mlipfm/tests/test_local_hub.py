"""The hub is for this machine alone and never ends a process that it did not start."""

import json
import os
import socket

import pytest
from mlipfm import local_hub
from mlipfm_interfaces.errors import RegistryError, UnreadableFileError


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "localhost.example.org", "127.0.0.1.example.org", ""])
def test_it_listens_on_no_address_that_others_can_reach(host, tmp_path):
    with pytest.raises(RegistryError, match="listens on this machine only"):
        local_hub.start(tmp_path / "hub", host=host)
    assert not (tmp_path / "hub").exists()


def test_a_taken_port_is_an_error_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RegistryError, match="choose another with --port"):
            local_hub.start(tmp_path, port=taken.getsockname()[1])


def test_a_process_that_got_the_number_of_an_old_hub_is_not_taken_for_it(tmp_path):
    state = {"pid": os.getpid(), "started": 1, "address": "http://127.0.0.1:5000"}
    (tmp_path / "hub.json").write_text(json.dumps(state))
    assert local_hub.find(tmp_path) is None


def test_a_damaged_state_is_an_error_and_ends_nothing(tmp_path):
    (tmp_path / "hub.json").write_text("{}")
    with pytest.raises(UnreadableFileError, match="does not say which process the hub is"):
        local_hub.find(tmp_path)
