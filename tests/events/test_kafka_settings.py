"""Settings of the Kafka client by `[log] options`: what is passed on, what is refused, and secrets that stay secret."""

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.events.kafka_cluster import Cluster, cluster

from shortlist.cli import main
from shortlist.config import KEPT, SECRET, Project, load, parse
from shortlist.errors import ConfigError, DataError
from shortlist.events.event import Event
from shortlist.events.kafka_settings import resolved
from shortlist.events.opening import open_log

NOW = 1_767_225_600_000  # 2026-01-01 UTC
KAFKA = {"use": "kafka://127.0.0.1:9092/events"}
HIDDEN = "mellon-7f3a"  # what must be seen nowhere
SASL = """
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "env:FELLOW"
"sasl.password" = "env:DOOR"
"""


@pytest.fixture
def brokers() -> Iterator[Cluster]:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    with cluster() as made:
        made.topic("events")
        yield made


def project(folder: Path, servers: str, options: str) -> Project:
    text = f'[log]\nuse = "kafka://{servers}/events"\n[log.options]\n{options}\n[schema.actions]\nclick = {{}}\n'
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return load(folder)


def refused(options: Mapping[str, Any], **log: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse({"log": {**KAFKA, **log, "options": dict(options)}})
    return str(caught.value)


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem",
                                  "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config",
                                  "sasl.oauthbearer.assertion.private.key.passphrase"])  # fmt: skip
@pytest.mark.parametrize("value", [HIDDEN, "", 7, f"env:{HIDDEN}", f"env:A {HIDDEN}"])
def test_a_secret_has_no_place_in_the_file(name: str, value: Any) -> None:
    said = refused({name: value})
    assert HIDDEN not in said
    if not str(value).startswith("env:"):
        hint = '(write "env:NAME", and set NAME in the environment)'
        assert said == f'project.log.options."{name}": a secret has no place in a project file {hint}'
    else:
        hint = '(write "env:NAME", of letters, digits and _)'
        assert said == f'project.log.options."{name}": no variable is called so {hint}'


def test_what_is_public_is_no_secret() -> None:
    public = ("sasl.username", "sasl.mechanism", "ssl.ca.pem", "ssl.certificate.pem", "ssl.key.location", "client.id")
    assert not [name for name in public if SECRET.search(name)]
    assert parse({"log": {**KAFKA, "options": dict.fromkeys(public, "x")}}).log.options == dict.fromkeys(public, "x")


@pytest.mark.parametrize("name", sorted(KEPT))
def test_what_the_log_rests_on_is_its_own(name: str) -> None:
    said = refused({name: "x"})
    assert said == f'project.log.options."{name}": this setting is the log\'s own (remove it: {KEPT[name]})'


def test_the_reasons_say_what_for() -> None:
    assert refused({"acks": 1}).endswith("(remove it: what is acknowledged must not be lost or doubled)")
    assert refused({"enable.auto.commit": True}).endswith(
        "(remove it: the position in the topic is kept in the local file, in one transaction with what was folded)"
    )


def test_other_refusals_have_their_exact_text() -> None:
    kinds = "should be text, a number or true or false"
    assert refused({"client.id": ["a"]}) == f'project.log.options."client.id": {kinds} (correct the value)'
    # security.protocol = "SSL" without quotes around the name
    said = refused({"security": {"protocol": "SSL"}})
    assert said == f'project.log.options."security": {kinds} (put the whole name in quotes)'
    hint = '(remove them, or write use = "kafka://HOST:PORT/TOPIC")'
    said = refused({"client.id": "a"}, use="sqlite:")
    assert said == f"project.log.options: these are settings of a Kafka client, and there is none {hint}"
    with pytest.raises(ConfigError) as caught:
        resolved({"client.id": "env:WHO"}, {"who": "x"})
    hint = "(set WHO before the program starts)"
    assert str(caught.value) == f'log.options."client.id": the environment has no WHO {hint}'


def test_values_are_passed_on_as_the_client_takes_them() -> None:
    told = {"client.id": "env:WHO", "sasl.password": "env:EMPTY", "socket.keepalive.enable": True, "x": 2.5, "y": "env"}
    made = resolved(told, {"WHO": "env:me", "EMPTY": ""})
    assert made == {
        "client.id": "env:me", "sasl.password": "", "socket.keepalive.enable": "true", "x": 2.5, "y": "env",
    }  # fmt: skip


def test_a_log_is_opened_with_them(tmp_path: Path, brokers: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import confluent_kafka

    seen: dict[str, dict[str, Any]] = {}

    def watched(name: str) -> None:
        made = getattr(confluent_kafka, name)
        monkeypatch.setattr(confluent_kafka, name, lambda settings: seen.setdefault(name, settings) and made(settings))

    for name in ("Consumer", "Producer"):
        watched(name)
    monkeypatch.setenv("WHO", "one-of-many")
    opened = project(
        tmp_path, brokers.servers, '"client.id" = "env:WHO"\n"fetch.wait.max.ms" = 5\n"compression.type" = "none"'
    )
    with closing(open_log(opened)) as log:
        assert log.append([Event("u", "i", "click", NOW)], ("click",), NOW)[0].offset == 1
    for settings in seen.values():
        assert (settings["client.id"], settings["compression.type"]) == ("one-of-many", "none")
        assert settings["bootstrap.servers"] == brokers.servers
    assert seen["Consumer"]["fetch.wait.max.ms"] == 5  # ours is 100
    assert (seen["Consumer"]["enable.auto.commit"], seen["Producer"]["enable.idempotence"]) == (False, True)
    assert (seen["Producer"]["acks"], seen["Producer"]["linger.ms"]) == ("all", 0)


def test_config_show_shows_names_of_variables_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR", HIDDEN)
    told = project(tmp_path, "h:1", SASL).config.log.options
    assert main(["config", "show", "--project", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown)["log"]["options"] == told
    assert told["sasl.password"] == "env:DOOR"
    assert main(["config", "show", "--json", "--project", str(tmp_path)]) == 0
    assert json.loads(out := capsys.readouterr().out)["log"]["options"] == told
    assert HIDDEN not in shown + out


def test_a_variable_that_is_not_set_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    monkeypatch.setenv("FELLOW", "frodo")
    monkeypatch.delenv("DOOR", raising=False)
    project(tmp_path, "127.0.0.1:9", SASL)
    assert main(["erase", "u1", "--project", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: the environment has no DOOR\n"
        '  where: log.options."sasl.password"\n'
        "  next: set DOOR before the program starts\n"
    )
    assert not (tmp_path / "var").exists()


HINT = "(its names and values stand in librdkafka's CONFIGURATION.md)"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ('"sasl.passwrod" = "env:DOOR"', "the Kafka client has no setting 'sasl.passwrod'"),
        ('"security.protocol" = "env:DOOR"', "the Kafka client does not take this value of 'security.protocol'"),
        ('"socket.timeout.ms" = 1', "the Kafka client does not take this value of 'socket.timeout.ms'"),
        (
            '"security.protocol" = "SASL_SSL"\n"sasl.mechanism" = "PLAIN"\n"sasl.password" = "env:DOOR"',
            "the Kafka client cannot be made: Failed to create consumer: sasl.username and sasl.password must be set",
        ),
    ],
)
def test_what_the_client_refuses_is_said_without_values(
    tmp_path: Path, options: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    monkeypatch.setenv("DOOR", HIDDEN)
    with pytest.raises(ConfigError) as caught:
        open_log(project(tmp_path, "127.0.0.1:9", options))
    assert str(caught.value) == f"log.options: {what} {HINT}"


def test_a_broker_that_does_not_let_us_in_says_why(
    tmp_path: Path, brokers: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The brokers of the test know no SASL at all."""
    monkeypatch.setenv("FELLOW", "frodo")
    monkeypatch.setenv("DOOR", HIDDEN)
    opened = project(tmp_path, brokers.servers, SASL)
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError) as caught:
        open_log(opened)
    assert str(caught.value) == (
        f"kafka://{brokers.servers}/events: no broker lets us in: Failed to initialize SASL authentication: "
        "SASL Handshake not supported by broker (required by mechanism PLAIN) "
        "(correct `[log] options`, or what the brokers know of us)"
    )
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert HIDDEN not in caplog.text
    assert HIDDEN.encode() not in kept


def test_a_broker_without_tls_is_said(tmp_path: Path, brokers: Cluster) -> None:
    opened = project(tmp_path, brokers.servers, '"security.protocol" = "SSL"')
    with pytest.raises(DataError, match=r"no broker lets us in: SSL handshake failed: .* PLAINTEXT broker listener"):
        open_log(opened)
