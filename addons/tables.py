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
    Column("id", _ID, primary_key=True),
    Column("time", Double, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("tags", Text, nullable=False),  # JSON
    Column("endpoint", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("rule", Text),
    Column("target", Text),
    Column("status", SmallInteger, nullable=False),
    Column("error", Text),
    Column("finish_reason", Text),
    Column("streamed", Boolean, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("failed_attempts", SmallInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("unpriced", Boolean, nullable=False),
    Column("failed_cost", BigInteger, nullable=False),
    Column("compared", BigInteger),
    Column("first_token_ms", Integer),
    Column("total_ms", Integer, nullable=False),
    Column("marks", Text, nullable=False),  # for the report: marks.py
    Column("prompt", Text),
    Column("answer", Text),
)
Index("calls_by_time", calls.c.time)

attempts = Table(
    "attempts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("call_id", _ID, ForeignKey("calls.id", ondelete="CASCADE"), nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("time", Double, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("continues", Boolean, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cost", BigInteger),  # NULL: the model has no price
    Column("first_token_ms", Integer),
    Column("total_ms", Integer, nullable=False),
)
Index("attempts_of_call", attempts.c.call_id)
