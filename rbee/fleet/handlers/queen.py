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
    with world.lock:
        _write(world, world.queen_config)
    _tell(service(world.local, world.python, "restart", "queen"), tell)


def _tell(told: dict[str, object], tell: Tell) -> None:
    notes = told.get("notes")
    for note in notes if isinstance(notes, list) else ():
        tell.say(str(note))


def configure(world: World, action: Action, tell: Tell) -> None:
    """What needs no restart: models, aliases, policies, hives."""
    with world.lock:
        _write(world, world.queen_config)
    _api(world).reload()


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
