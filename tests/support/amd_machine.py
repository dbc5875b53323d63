# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of a test's own that has AMD cards, with a hive that is a process of its own."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from tests.support import stand_ins
from tests.support.hive import install_engine
from tests.support.hive_tool import HiveMachine
from tests.support.workers import llama_cpp


class AmdMachine(HiveMachine):
    """A machine with two AMD cards, told by its `amd-smi`; what processes have of them stands in `uses`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.uses = root / "uses.json"
        self.uses.write_text("[]")
        self.tools = root / "bin"
        stand_ins.amd_smi(self.tools)
        script = self.tools / "amd-smi"
        said = f"{stand_ins.GOLDENS}/amd-smi-process.json"
        script.write_text(script.read_text().replace(said, str(self.uses)))
        self.env["PATH"] = f"{self.tools}:{os.environ['PATH']}"
        # The engine of the tests does without a card what it would do with one.
        install_engine(self.paths, replace(llama_cpp(), worker_types=("rocm", "cpu")), worker_type="rocm")

    def holds(self, pid: int, megabytes: int) -> None:
        process = {"name": "engine", "pid": pid, "memory_usage": {"vram_mem": {"value": megabytes, "unit": "MB"}}}
        self.uses.write_text(json.dumps([{"gpu": 0, "process_list": [{"process_info": process}]}]))
