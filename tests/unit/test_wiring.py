"""Which tools a device gets, by what is on it."""

from pathlib import Path

import pytest

from agent.wiring import docker_is_there


@pytest.mark.parametrize("engine", ["bin/dockerd", "sbin/dockerd"])
def test_docker_is_found_where_yocto_and_where_debian_put_it(tmp_path: Path, engine: str) -> None:
    for program in (engine, "bin/docker"):
        (tmp_path / program).parent.mkdir(exist_ok=True)
        (tmp_path / program).touch()

    assert docker_is_there(tmp_path)


def test_a_client_alone_is_no_docker(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").touch()

    assert not docker_is_there(tmp_path)
