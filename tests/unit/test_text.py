"""Words of the core, said by the program that a person called."""

import pytest

from agent.core.outcome import NextStep
from agent.faces.text import spoken


@pytest.mark.parametrize("step", NextStep)
def test_a_next_step_names_a_program_that_has_the_command(step: NextStep) -> None:
    said = spoken(step.sentence, "aklite-offline")

    assert "aklite-offline" not in step.sentence
    assert "usb-update" not in said
    assert said.count("aklite-offline") == step.sentence.count("'usb-update ")


def test_commands_that_only_one_program_has_keep_its_name() -> None:
    words = "'usb-update run' here, 'usb-update bundle create' at the desk, 'usb-update running'"

    assert spoken(words, "aklite-offline") == (
        "'aklite-offline run' here, 'usb-update bundle create' at the desk, 'usb-update running'"
    )
