"""What a project adds to the settings of the Kafka client: `[log] options`, values of `env:NAME` from the environment.

Which names a project may use is said by `config.parse`; whether the client takes them is seen when it is made.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from shortlist.config import ENV, SECRET
from shortlist.errors import ConfigError

__all__ = ["resolved", "made"]

WHERE = "log.options"
NAMED = re.compile(r'property:? "([^"]*)"')
T = TypeVar("T")


def resolved(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str | int | float]:
    """Options as the client takes them. Raises ConfigError for a variable that is not set."""
    return {name: _value(name, value, environ) for name, value in options.items()}


def made(client: Callable[[dict[str, Any]], T], settings: dict[str, Any]) -> T:
    """A consumer, a producer or an admin of these settings. Raises ConfigError for what it refuses.

    The client's own words quote values; no value is in ours.
    """
    from confluent_kafka import KafkaException

    try:
        return client(settings)
    except KafkaException as error:
        said = error.args[0].str()
    except (TypeError, ValueError, SystemError) as error:
        said = str(error)
    name = found[1] if (found := NAMED.search(said)) else ""
    hint = "its names and values stand in librdkafka's CONFIGURATION.md"
    if said.startswith("No such configuration property"):
        raise ConfigError(f"the Kafka client has no setting {name!r}", where=WHERE, hint=hint)
    if name:
        raise ConfigError(f"the Kafka client does not take this value of {name!r}", where=WHERE, hint=hint)
    for key, value in settings.items():
        if SECRET.search(key) and str(value):
            said = said.replace(str(value), "***")
    raise ConfigError(f"the Kafka client cannot be made: {said.strip()}", where=WHERE, hint=hint)


def _value(name: str, value: Any, environ: Mapping[str, str]) -> str | int | float:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) or not (found := ENV.fullmatch(value)):
        return value  # type: ignore[no-any-return]
    if found[1] not in environ:
        what, hint = f"the environment has no {found[1]}", f"set {found[1]} before the program starts"
        raise ConfigError(what, where=f'{WHERE}."{name}"', hint=hint)
    return environ[found[1]]
