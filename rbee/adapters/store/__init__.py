# SPDX-License-Identifier: GPL-3.0-or-later
"""Where jobs, leases and shared limits stay: a file of this machine (SQLite), or a database that several queens share.

`rbee.daemons.job_store.Store` says what each method does. PostgreSQL's driver is imported only when it is asked for.
"""

from rbee.adapters.store.sqlite import SqliteJobStore

__all__ = ["SqliteJobStore"]
