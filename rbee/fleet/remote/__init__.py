# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that run on a machine which has nothing of rbee yet: one file each, standard library only, Python 3.10.

Each reads one line of JSON (its parameters) from standard input, then its data, and prints one line
`rbee: {...}`; whatever else a login shell prints around it is ignored.
"""
