"""The log that a project names: `[log] use = "sqlite:"`, or `"kafka://HOST:PORT/TOPIC"`."""

import os
import re

from shortlist.config import Project
from shortlist.errors import ConfigError
from shortlist.events.base import Log
from shortlist.events.kafka_log import KafkaLog
from shortlist.events.kafka_settings import resolved
from shortlist.events.log import EventLog

__all__ = ["open_log"]

SERVER = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
KAFKA = re.compile(rf"kafka://(?P<servers>{SERVER}(?:,{SERVER})*)/(?P<topic>[A-Za-z0-9._-]{{1,249}})")


def open_log(project: Project) -> Log:
    """The project's log; the one who opens it closes it. Raises ConfigError for a word that is neither of the two,
    and for settings that the Kafka client refuses."""
    use, path = project.config.log.use, project.home / "log.db"
    if use == "sqlite:":
        return EventLog(path)
    if found := KAFKA.fullmatch(use):
        settings = resolved(project.config.log.options, os.environ)
        return KafkaLog(found["servers"], found["topic"], path, settings=settings)
    hint = '"sqlite:", or "kafka://HOST:PORT/TOPIC"'
    raise ConfigError(f"no log is opened by {use!r}", where="log.use", hint=hint)
