# SPDX-License-Identifier: GPL-3.0-or-later
from rbee.cli.main import main

main(prog_name="rbee")
