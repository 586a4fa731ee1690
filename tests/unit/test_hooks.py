"""Hooks: real commands and a real HTTP server, that succeed, fail, hang and are ended."""

import asyncio
import base64
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from replicator.daemon import hooks
from replicator.daemon.hooks import post, run_command
from replicator.errors import HookError, UsageError
from replicator.settings import load_settings
from tests.listener import listening
from tests.waiting import until

BODY = json.dumps({"event": "soak"}).encode()


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids(file: Path) -> list[int]:
    """What a command has written to a file, once the line is complete."""
    return [int(each) for each in file.read_text().split()] if file.exists() and "\n" in file.read_text() else []


# --- commands ---------------------------------------------------------------------------------------------------------


async def test_a_command_gets_the_document_and_the_event(tmp_path: Path) -> None:
    await run_command(f'cat > {tmp_path}/got; echo "$REPLICATOR_HOOK_EVENT" > {tmp_path}/event', "soak", BODY)
    assert (tmp_path / "got").read_bytes() == BODY
    assert (tmp_path / "event").read_text() == "soak\n"


async def test_a_command_gets_no_connection_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPLICATOR_SOURCE_DSN", "REPLICATOR_TARGET_DSN", "REPLICATOR_HOOK_URL", "replicator_source_dsn"):
        monkeypatch.setenv(name, "postgresql://a:secret@b/c")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("MINE", "kept")
    await run_command(f"env > {tmp_path}/env", "soak", BODY)
    given = (tmp_path / "env").read_text()
    assert "secret" not in given
    assert "MINE=kept" in given


async def test_a_command_need_not_read() -> None:
    await run_command("exit 0", "soak", b"x" * 1_000_000)


async def test_a_command_that_fails_is_quoted_by_its_last_lines() -> None:
    command = "seq 1000000 >&2; echo printed; printf 'the backup\\nis\\033 missing.\\n' >&2; exit 7"
    with pytest.raises(HookError) as failed:
        await run_command(command, "before_cutover", BODY)
    problem = "The hook before_cutover (command) exited with 7: 1000000 / the backup / is  missing."
    assert failed.value.problem == problem
    assert failed.value.outcome == "failed"
    assert not failed.value.transient


async def test_what_is_quoted_is_limited() -> None:
    with pytest.raises(HookError) as failed:
        await run_command("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", "soak", BODY)
    assert len(failed.value.problem) < hooks.SAID_CHARACTERS + 100


async def test_a_command_that_is_killed() -> None:
    with pytest.raises(HookError, match="was ended by the signal 9"):
        await run_command("kill -9 $$", "soak", BODY)


async def test_a_command_that_is_not_there() -> None:
    with pytest.raises(HookError, match=r"exited with 127: .*no-such-command"):
        await run_command("no-such-command", "soak", BODY)


async def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    await run_command(f"sleep 600 & echo $! > {tmp_path}/pid", "soak", BODY)
    await until(lambda: not any(map(alive, pids(tmp_path / "pid"))))


async def test_one_who_leaves_the_group_with_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    command = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' & while ! test -s {tmp_path}/pid; do :; done"
    await run_command(command, "soak", BODY)
    assert time.monotonic() - began < 300
    os.kill(int((tmp_path / "pid").read_text()), 9)


LASTING = "sleep 600 & echo $$ $! > {}/pids; trap '' TERM INT; wait; sleep 600"


async def test_a_cancelled_command_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    running = asyncio.create_task(run_command(LASTING.format(tmp_path), "soak", BODY))
    await until(lambda: len(pids(tmp_path / "pids")) == 2)
    assert all(map(alive, pids(tmp_path / "pids")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not any(map(alive, pids(tmp_path / "pids"))))


async def test_cancelled_while_it_is_started_it_is_ended_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    spawn = loop.subprocess_shell

    async def slowly(*arguments: Any, **options: Any) -> Any:
        spawned = await spawn(*arguments, **options)
        await until(lambda: len(pids(tmp_path / "pids")) == 2)
        began.set()
        await cancelled.wait()
        return spawned

    began, cancelled = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(loop, "subprocess_shell", slowly)
    running = asyncio.create_task(run_command(LASTING.format(tmp_path), "soak", BODY))
    await began.wait()
    running.cancel()
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not any(map(alive, pids(tmp_path / "pids"))))


# --- URLs -------------------------------------------------------------------------------------------------------------


async def test_a_url_gets_the_document() -> None:
    with listening(204) as listener:
        await post(listener.url, "soak", BODY)
        assert listener.got == [{"event": "soak"}]


@pytest.mark.parametrize(
    ("status", "transient"), [(302, False), (400, False), (404, False), (408, True), (429, True), (503, True)]
)
async def test_a_url_that_refuses_is_quoted_but_not_named(status: int, transient: bool) -> None:
    with listening(status, said="not now") as listener, pytest.raises(HookError) as failed:
        await post(listener.url, "soak", BODY)
    assert failed.value.problem == f"The hook soak (url) was answered with {status}: not now."
    assert failed.value.transient is transient


async def test_nobody_listens() -> None:
    with listening() as listener:
        pass
    with pytest.raises(HookError, match="could not be called") as failed:
        await post(listener.url, "soak", BODY)
    assert failed.value.transient
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("url", ["http://", "http://[nowhere/a-secret-token", "https://host:port/a-secret-token"])
async def test_a_url_that_is_none_is_not_named_either(url: str) -> None:
    with pytest.raises(HookError, match="could not be called") as failed:
        await post(url, "soak", BODY)
    assert "secret" not in str(failed.value)


async def test_a_redirection_is_not_followed() -> None:
    with listening(200) as other, listening(307, location=other.url) as listener:
        with pytest.raises(HookError, match="answered with 307"):
            await post(listener.url, "soak", BODY)
        assert other.got == []


async def test_a_user_in_the_url_is_the_servers_and_other_letters_are_quoted() -> None:
    with listening() as listener:
        url = listener.url.replace("http://", "http://me:p%40ss@").replace("a-secret-token", "%7Eé?a=b c")
        await post(url, "soak", BODY)
    assert listener.headers[0]["Authorization"] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert listener.headers[0]["Host"] == listener.url.split("/")[2]
    assert listener.headers[0]["Content-Type"] == "application/json"
    assert listener.paths == ["/%7E%C3%A9?a=b%20c"]


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        await post("http://hooks.invalid/soak", "soak", BODY)
        assert proxy.paths == ["http://hooks.invalid/soak"]
        monkeypatch.setenv("no_proxy", "hooks.invalid")
        with pytest.raises(HookError, match="could not be called"):
            await post("http://hooks.invalid/soak", "soak", BODY)


async def test_a_call_that_is_cancelled_returns_at_once() -> None:
    with listening() as listener:
        listener.silent = True
        calling = asyncio.create_task(post(listener.url, "soak", BODY))
        await until(listener.asked.is_set)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not listener.let_go.is_set()
        assert [each.daemon for each in threading.enumerate() if each.name == "hook"] == [True]
    await until(lambda: not any(each.name == "hook" for each in threading.enumerate()))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["ftp://host/secret", "secret", "file:///etc/secret"])
def test_only_http(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", "postgresql://host/app")
    monkeypatch.setenv("REPLICATOR_HOOK_URL", url)
    with pytest.raises(UsageError, match=r"REPLICATOR_HOOK_URL: .*it must begin with http:// or https://") as refused:
        load_settings()
    assert "secret" not in str(refused.value)


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", "postgresql://host/app")
    monkeypatch.setenv("REPLICATOR_HOOK_URL", "")
    monkeypatch.setenv("REPLICATOR_HOOK_COMMAND", "")
    settings = load_settings()
    assert not settings.hook_url
    assert not settings.hook_command
