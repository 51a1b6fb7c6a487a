"""`detector test-notify`: one message that says it is a test, to see whether it arrives."""

from __future__ import annotations

from typing import Annotated

import typer

from detector.commands.shared import ConfigOption, JsonOption, load, now_ms, print_json, say
from detector.errors import ConfigError


def send_test(
    name: Annotated[str, typer.Argument(help="A notifier of the configuration.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sends a test message through a notifier and says what was answered; nothing is stored."""
    _, settings = load(config)
    found = {section.name: section for section in settings.notifiers}
    if name not in found:
        there = f"there is: {', '.join(found)}" if found else "it has none; add one as [[notifiers]]"
        msg = f"no notifier named {name!r} in the configuration; {there}"
        raise ConfigError(msg)
    from detector import wiring

    section = found[name]
    monitor = (*section.monitors, *(one.name for one in settings.monitors))[0]
    answered = wiring.notifier(section).test(monitor, now_ms())
    if as_json:
        print_json({"notifier": name, "type": section.type, "answer": answered})
    else:
        say(f"notifier {name}: the test message was taken ({answered}); look whether it arrived")
