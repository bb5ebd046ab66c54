"""The ledger's two tables: a row for each call, and one for each of its attempts.

Money is in NANOS of a USD and times of day in Unix seconds, both for exact sums; durations are whole milliseconds.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
)

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where they are an INTEGER

calls = Table(
    "calls",
    metadata,
    # First what a report reads: of a row SQLite looks at no more than it must.
    Column("id", _ID, primary_key=True),
    Column("time", Double, nullable=False),
    Column("client", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("rule", Text),
    Column("target", Text),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("failed_cost", BigInteger, nullable=False),
    Column("compared", BigInteger),
    Column("marks", Text, nullable=False),  # for the report: marks.py
    Column("request_id", Text, nullable=False),
    Column("tags", Text, nullable=False),  # JSON
    Column("operation", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("error", Text),
    Column("finish_reason", Text),
    Column("streamed", Boolean, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("failed_attempts", SmallInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("unpriced", Boolean, nullable=False),
    Column("first_token_ms", Integer),
    Column("total_ms", Integer, nullable=False),
    Column("prompt", Text),
    Column("answer", Text),
)
Index("calls_by_time", calls.c.time, postgresql_include=["id"])  # in SQLite an index has it in any case

attempts = Table(
    "attempts",
    metadata,
    Column("call_id", _ID, ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True),
    Column("number", SmallInteger, primary_key=True),
    Column("call_time", Double, nullable=False),  # of the call: so a period's attempts are found without it
    Column("target", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger),  # NULL: no price, or one for tokens that nobody counted
    Column("outcome", Text, nullable=False),
    Column("marks", Text, nullable=False),  # for the report, as those of calls
    Column("time", Double, nullable=False),
    Column("continues", Boolean, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("first_token_ms", Integer),
    Column("total_ms", Integer, nullable=False),
    sqlite_with_rowid=False,  # a call's attempts are found without an index beside the table
)
