"""The scripts that a Redis server runs for counters_redis.py: each is one step, in which nobody else counts. Also what
is read out of their answers.

They count as rules/quota.Window and quota.share do. A limit is a hash of slots; calls at once are a sorted set of
leases, each with the moment at which it ends. So are the calls under way of a limit on tokens or money, in a set beside
it, as `taken lease`: those of a gateway that was killed keep nobody waiting for longer than a lease. The time is the
server's own, so that the clocks of gateways need not agree; a test may give another one, as ARGV[1].

A server that stood still for a moment reads what was said meanwhile, also what nobody waits for any more. So SPEND and
RENEW are good until a moment of the server's clock, the last of ARGV, and do nothing when they are read later.

KEYS[1] is what the server knows of itself: `since`, the moment from which on it has counted everything. It never
expires, so it is there as long as the counts are; where it is missing, all was forgotten, and counting begins anew.
What the ledger of a gateway knows of the time before stands beside what was counted, in fields `slot:ledger`: told a
second time it is the same, and of several ledgers each has fields of its own.

Lua's numbers are doubles: whole up to 2^53, which as billionths of a dollar is nine million dollars. `%.0f` writes them
as such; Lua's own way would round them to 14 digits.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

from rules.quota import A_PLACE, SLOTS, Charge, Standing

_WAITS = {-1: 0.0, -2: math.inf, -3: A_PLACE}
"""Where SPEND names no slot whose end makes room."""


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str
    ends: bool
    """Does nothing after the moment that is its last argument."""


def _script(*parts: str, ends: bool = False) -> Script:
    text = "".join(parts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), ends)


class Row(NamedTuple):
    """What SPEND says of one limit."""

    used: int
    last: int
    frees: int
    slot: int
    took: int
    aside: int


def width_of(charge: Charge) -> float:
    """Seconds of one slot; 0 for calls at once."""
    return charge.limit.seconds / SLOTS


def standing_of(charge: Charge, now: float, row: Row) -> Standing:
    width = width_of(charge)

    def until_gone(slot: int) -> float:
        return max(0.0, (slot + SLOTS + 1) * width - now)

    wait = _WAITS.get(row.frees)
    if wait is None:
        wait = until_gone(row.frees)
    return Standing(row.used, wait, until_gone(row.last) if row.used and row.last >= 0 else 0.0, row.aside)


_CLOCK = """
local time = redis.call('TIME')
local clock = time[1] + time[2] / 1000000
local now = tonumber(ARGV[1]) or clock
"""

_IN_TIME = """
-- Whoever asked gave up, and does as if this had never been asked; or our clock was set, and is told here.
if clock > tonumber(ARGV[#ARGV]) then return 'late ' .. string.format('%.17g', clock) end
"""

_SINCE = """
local since = redis.call('HGET', KEYS[1], 'since')
if not since then
  since = string.format('%.6f', now)
  redis.call('HSET', KEYS[1], 'since', since)
end
"""

_WINDOW = """
-- What is in a window: its total, its last slot (-1: none), its slots from the oldest on; what is too old is taken out.
local function window(key, width)
  local gone = math.floor(now / width) - 60
  local flat = redis.call('HGETALL', key)
  local total, last, slots, old = 0, -1, {}, {}
  for i = 1, #flat, 2 do
    local slot = tonumber(flat[i]) or tonumber(string.match(flat[i], '^[^:]+'))
    local amount = tonumber(flat[i + 1])
    if slot < gone then
      old[#old + 1] = flat[i]
    else
      slots[#slots + 1] = {slot, amount}
      total = total + amount
      last = math.max(last, slot)
    end
  end
  if #old > 0 then redis.call('HDEL', key, unpack(old)) end
  table.sort(slots, function(a, b) return a[1] < b[1] end)
  return total, last, slots
end

-- Counts an amount now; a clock that was set back does not open older slots again.
local function add(key, width, last, amount)
  local slot = math.max(math.floor(now / width), last)
  redis.call('HINCRBY', key, string.format('%.0f', slot), string.format('%.0f', amount))
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(width * 61000) + 1000))
  return slot
end
"""

SPEND = _script(
    _CLOCK,
    _IN_TIME,
    _SINCE,
    _WINDOW,
    """
-- What calls that are under way took.
local function set_aside(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.6f', now))
  local total = 0
  for _, call in ipairs(redis.call('ZRANGE', key, 0, -1)) do total = total + tonumber(string.match(call, '^%d+')) end
  return total
end

local function hold(key, call, lives)
  redis.call('ZADD', key, string.format('%.6f', now + lives), call)
  redis.call('PEXPIRE', key, string.format('%.0f', lives * 1000 + 1000))
end

-- KEYS: since, the limits, the sets of calls under way.
-- ARGV: now, 1 to count or 0 to look, lease, its seconds; for each limit: a slot's seconds (0: leases), limit, amount,
-- what of it is only guessed, which of KEYS has its calls under way (0: none); until when this is good.
-- Returns, as one text, which is quicker to read than a list, `late` and its clock, or: 1 if all fit, now, since, and
-- for each limit: used, its last slot (-1: none), the slot whose end makes room (-1: there is room, -2: there never is,
-- -3: when calls end), where it was counted, what it took, what is set aside where it does not fit.
local take, lease, lives = ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local found, all_fit, count = {}, 1, (#ARGV - 5) / 5
for i = 1, count do
  local key, at = KEYS[i + 1], 5 * i
  local width, limit, amount = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local guess, under_way = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local used, last, slots
  if width == 0 then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.6f', now))
    used, last, slots = redis.call('ZCARD', key), -1, {}
  else
    used, last, slots = window(key, width)
  end
  local frees, aside, least = -1, 0, amount - guess
  if amount > 0 and used + amount > limit then
    if under_way > 0 then aside = set_aside(KEYS[under_way]) end
    if least > limit then
      frees = -2
    elseif guess > 0 and aside == 0 and used + least <= limit then
      amount = limit - used
    elseif width == 0 or (aside > 0 and used - aside + least <= limit) then
      frees = -3
    else
      local left = used
      for _, slot in ipairs(slots) do
        if left + least <= limit then break end
        left, frees = left - slot[2], slot[1]
      end
    end
  end
  if frees ~= -1 then all_fit = 0 else aside = 0 end
  found[i] = {used, last, frees, width, amount, under_way, aside}
end
local answer = {tostring(all_fit), string.format('%.17g', now), since}
for i = 1, count do
  local key = KEYS[i + 1]
  local used, last, frees, width, amount, under_way, aside = unpack(found[i])
  local slot = 0
  if take and all_fit == 1 then
    if width == 0 then
      hold(key, lease, lives)
    else
      slot = add(key, width, last, amount)
      last = slot
      if under_way > 0 then hold(KEYS[under_way], string.format('%.0f ', amount) .. lease, lives) end
    end
    used = used + amount
  end
  answer[#answer + 1] = string.format('%.0f %.0f %.0f %.0f %.0f %.0f', used, last, frees, slot, amount, aside)
end
return table.concat(answer, ' ')
""",
    ends=True,
)

SETTLE = _script(
    _CLOCK,
    _WINDOW,
    """
-- KEYS: since, the limits, the sets of calls under way.
-- ARGV: now, lease, since when it was counted (empty: as now); for each limit: a slot's seconds (0: leases), the slot
-- it was counted in, what it took, used, which of KEYS has its calls under way (0: none). What was counted before all
-- was forgotten is in no slot any more.
local lease, counted = ARGV[2], ARGV[3] == '' or ARGV[3] == redis.call('HGET', KEYS[1], 'since')
for i = 1, (#ARGV - 3) / 5 do
  local key, at = KEYS[i + 1], 5 * i - 1
  local width, charged, used = tonumber(ARGV[at]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local under_way = tonumber(ARGV[at + 4])
  if under_way > 0 then redis.call('ZREM', KEYS[under_way], ARGV[at + 2] .. ' ' .. lease) end
  if width == 0 then
    redis.call('ZREM', key, lease)
  elseif not counted then
  elseif used < charged then
    local there = tonumber(redis.call('HGET', key, ARGV[at + 1]) or 0)
    local back = math.min(charged - used, there)
    if back > 0 then redis.call('HINCRBY', key, ARGV[at + 1], string.format('%.0f', -back)) end
  elseif used > charged then
    local _, last = window(key, width)
    add(key, width, last, used - charged)
  end
end
return 1
""",
)

RENEW = _script(
    _CLOCK,
    _IN_TIME,
    _SINCE,
    """
-- ARGV: now, a lease's seconds; a lease for each further key; until when this is good. A lease that the server forgot
-- is held again: its call is not over. Something is written in any case: a server that does not take that, as a
-- replica, cannot count either.
-- Returns `late` and its clock, or since and now.
local lives = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'seen', string.format('%.6f', now))
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], string.format('%.6f', now + lives), ARGV[i + 1])
  redis.call('PEXPIRE', KEYS[i], string.format('%.0f', lives * 1000 + 1000))
end
return since .. ' ' .. string.format('%.17g', now)
""",
    ends=True,
)

RECALL = _script(
    _CLOCK,
    """
-- ARGV: now, since, ledger, 1 where this is the last of it; for each further key: a slot's seconds, how many slots, and
-- each slot with its amount. A key that has counted something before `since` was not forgotten, and is left alone.
-- Returns `ok`, or why nothing was done: `told` before, or `forgot` once more.
if redis.call('HGET', KEYS[1], 'since') ~= ARGV[2] then return 'forgot' end
local ledger = 'ledger:' .. ARGV[3]
if redis.call('HEXISTS', KEYS[1], ledger) == 1 then return 'told' end

local function is_lost(key, slot)
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local counted = tonumber(flat[i])
    if counted and counted < slot and flat[i + 1] ~= '0' then return false end
  end
  return true
end

local at = 5
for i = 2, #KEYS do
  local width, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  if is_lost(KEYS[i], math.floor(tonumber(ARGV[2]) / width)) then
    for j = at + 2, at + 2 * count, 2 do
      redis.call('HSET', KEYS[i], ARGV[j] .. ':' .. ARGV[3], ARGV[j + 1])
    end
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', math.ceil(width * 61000) + 1000))
  end
  at = at + 2 + 2 * count
end
if ARGV[4] == '1' then redis.call('HSET', KEYS[1], ledger, string.format('%.6f', now)) end
return 'ok'
""",
)

SCRIPTS = (SPEND, SETTLE, RENEW, RECALL)
