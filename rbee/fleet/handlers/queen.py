# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen on this machine, and the hives she knows."""

from __future__ import annotations

from dataclasses import replace

from rbee.contracts.configs import QueenConfig
from rbee.core.actions import Action
from rbee.core.errors import RbeeError, Unreachable
from rbee.fleet.handlers.machine import service
from rbee.fleet.ports import QueenApi
from rbee.fleet.settings import queen_local_url
from rbee.fleet.world import Tell, World

REGISTER_TIMEOUT = 30.0


def _write(world: World, config: QueenConfig) -> None:
    world.home.token()
    world.home.write_queen_config(config)


def _api(world: World) -> QueenApi:
    return world.machines.queen_api(queen_local_url(world.spec))


def start(world: World, action: Action, tell: Tell) -> None:
    if not action.params.get("as_it_was"):
        with world.lock:
            _write(world, world.queen_config)
    _tell(service(world.local, world.python, "start", "queen"), tell)


def restart(world: World, action: Action, tell: Tell) -> None:
    """Start her anew with other settings. When she cannot run with them she gets her old ones back: what she served
    before goes on. Raises RbeeError either way, with her own words and where her log is."""
    with world.lock:
        before = world.home.queen_config()
        _write(world, world.queen_config)
    try:
        told = service(world.local, world.python, "restart", "queen")
    except RbeeError as e:
        old = before and _of_release(before, world.queen_config)
        if old is None or old == world.queen_config:
            raise
        raise _put_back(world, old, e, tell) from None
    _tell(told, tell)


def _of_release(config: QueenConfig, new: QueenConfig) -> QueenConfig:
    """The release is not a setting but what runs: this one, with old settings too."""
    local = config.local_hive and replace(config.local_hive, release=new.release)
    return replace(config, release=new.release, local_hive=local)


def _put_back(world: World, old: QueenConfig, why: RbeeError, tell: Tell) -> RbeeError:
    """Start her with her old settings; the error that tells what became of both."""
    try:
        with world.lock:
            world.home.write_queen_config(old)
        told = service(world.local, world.python, "restart", "queen")
    except (RbeeError, OSError) as e:
        also = e.message if isinstance(e, RbeeError) else f"{e.strerror or e}: {e.filename}"
        said = "The queen could be started neither with her new settings nor with her old ones again."
        return RbeeError(f"{said} New: {why.message} Old: {also}", code=why.code, mend=why.mend)
    _tell(told, tell)
    said = "The queen could not be started with her new settings. She has her old ones back and runs with them."
    return RbeeError(f"{said} {why.message}", code=why.code, mend=why.mend)


def _tell(told: dict[str, object], tell: Tell) -> None:
    notes = told.get("notes")
    for note in notes if isinstance(notes, list) else ():
        tell.say(str(note))


def configure(world: World, action: Action, tell: Tell) -> None:
    """What needs no restart: models, aliases, policies, hives. Settings that she refuses are not left for her next
    start."""
    with world.lock:
        before = world.home.queen_config()
        _write(world, world.queen_config)
    try:
        _api(world).reload()
    except Unreachable:
        raise  # nobody has refused them
    except RbeeError:
        if before is not None:
            with world.lock:
                world.home.write_queen_config(before)
        raise


def stop(world: World, action: Action, tell: Tell) -> None:
    service(world.local, world.python, "stop", "queen")
    world.home.forget()


def register(world: World, action: Action, tell: Tell) -> None:
    """Wait until the queen has discovered a hive; her settings name it already. Raises RbeeError `not_registered`
    with her own reason when she cannot reach it in time."""
    assert action.hive is not None
    api, end, reason = _api(world), world.clock.monotonic() + REGISTER_TIMEOUT, "she has not answered yet"
    try:
        api.reload()
        while world.clock.monotonic() < end and not world.stop.is_set():
            for hive in api.info().get("hives", ()):
                if hive.get("hive_id") == action.hive:
                    if hive.get("status") == "online":
                        return
                    reason = str(hive.get("error") or hive.get("status"))
            world.clock.sleep(0.2)
    except Unreachable as e:
        raise RbeeError(
            f"The queen does not answer any more: {e.message}",
            code="queen_gone",
            mend="Her log (queen.log in rbee's state directory) says why; the next apply starts her.",
        ) from None
    if world.stop.is_set():
        raise RbeeError("Registering was interrupted.", code="interrupted")
    raise RbeeError(
        f"The queen cannot reach hive {action.hive!r} at {_url(world, action.hive)}: {reason}",
        code="not_registered",
        mend=(
            "That address and the ports of its workers must be reachable from here (a firewall? a jump host?); set "
            "`listen:` of the hive to an address that is."
        ),
    )


def _url(world: World, hive: str) -> str:
    return next((h.url for h in world.queen_config.hives if h.hive_id == hive), "(unknown)")


def unregister(world: World, action: Action, tell: Tell) -> None:
    with world.lock:
        config = world.home.queen_config()
        if config is None:
            return
        world.home.write_queen_config(replace(config, hives=tuple(h for h in config.hives if h.hive_id != action.hive)))
    try:
        _api(world).reload()
    except RbeeError as e:
        if e.code not in ("unreachable", "refused"):
            raise
