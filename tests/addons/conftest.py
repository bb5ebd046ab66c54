"""Files whose tests need a server that this machine may not have."""

from __future__ import annotations

from tests.postgres import BIN
from tests.servers import REDIS_SERVER

collect_ignore = [
    *([] if REDIS_SERVER else ["test_counters_redis.py", "test_limits_redis.py"]),
    *([] if BIN else ["test_ledger_postgres.py"]),
]
"""scripts/test has said so."""
