"""What Redis does in one step for the log and the tables: scripts, each of which runs as a whole or not at all.

All keys of a deployment begin with one prefix in braces, its hash tag, so that they are in one slot. With P for it:

====================  =================================================================================================
P                     hash: `epoch`; `head`, the highest offset given; `pruned`, the highest one that retention took;
                      `life` and `run`, the replication id and the process of the server that the nodes know
P:log                 stream: the messages, `<offset>-0`, each with `t` (microseconds), `h` (what a draft is) and `d`
P:room:<room>         sorted set: the offsets of a room
P:rooms               sorted set: each room that has messages, with the highest offset that retention took of it
P:sizes               hash: the bytes of data of each of these rooms that has a bound for them
P:gone                hash: the highest offset that retention took of rooms that are empty now, by rule
P:id:<16 bytes>       string: offset, time and content (a hash) of the message with this identity; expires
P:table:<name>        hash: values by key, each after its deadline in 8 bytes
P:ends:<name>         sorted set: the deadlines, in milliseconds. The channel P:table:<name> tells changes: a key, after
                      its length, and what the hash has for it, nothing if it was taken
====================  =================================================================================================

Numbers become text by `%.0f`: Lua's own way loses digits from 10^14 on.
"""

from __future__ import annotations

from typing import Final

_EPOCH: Final = """
local P = KEYS[1]
local function text(number) return string.format('%.0f', number) end
if redis.call('HGET', P, 'epoch') ~= ARGV[1] then return redis.error_reply('FENCED the log has another epoch') end
"""

_ENTRY: Final = """
local function entry(offset)
  return redis.call('XRANGE', P .. ':log', offset .. '-0', offset .. '-0')[1]
end
"""

GREET: Final = """
-- epoch to begin with, replication id, the one before it ('' for none), process, whether a restart may lose something,
-- offset that is asked for
local P = KEYS[1]
local epoch, life, run = unpack(redis.call('HMGET', P, 'epoch', 'life', 'run'))
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', P, 'epoch', epoch, 'head', 0, 'pruned', 0)
elseif life ~= ARGV[2] and (ARGV[3] ~= '' or (run ~= ARGV[4] and ARGV[5] == '1')) then
  epoch = ARGV[1]
  redis.call('HSET', P, 'epoch', epoch)
end
if life ~= ARGV[2] then redis.call('HSET', P, 'life', ARGV[2], 'run', ARGV[4]) end
local last = redis.call('XRANGE', P .. ':log', ARGV[6] .. '-0', ARGV[6] .. '-0')[1]
return {epoch, redis.call('HGET', P, 'head'), last or false}
"""

RENEW: Final = """
-- the epoch that is known, the one to come
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HSET', KEYS[1], 'epoch', ARGV[2]) end
return redis.status_reply('OK')
"""

APPEND: Final = (
    _EPOCH
    + _ENTRY
    + """
-- epoch, time, most rooms; then for each group how many drafts, and for each draft: room, id, milliseconds that the id
-- is remembered, hash of the content, head, data, 1 if the bytes of its room are counted
local time, most = ARGV[2], tonumber(ARGV[3])
local head = tonumber(redis.call('HGET', P, 'head'))
local there = {}  -- rooms
local answers = {}
local at = 4
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  at = at + 1
  local own, fresh, new, refusal = {}, {}, 0, nil
  for a = at, at + 7 * (count - 1), 7 do
    local room, id, content = ARGV[a], ARGV[a + 1], ARGV[a + 3]
    local known = own[id]
    if known == nil then
      local kept = redis.call('GET', P .. ':id:' .. id)
      if kept then
        local offset, written, hash = string.match(kept, '^(%d+) (%d+) (.*)$')
        known = {offset, written, hash}
      else
        known = {false, time, content}
        if not there[room] and not fresh[room] then
          if redis.call('ZSCORE', P .. ':rooms', room) then
            there[room] = true
          else
            fresh[room] = true
            new = new + 1
          end
        end
      end
      own[id] = known
    end
    if known[3] ~= content then refusal = 'id' end
  end
  if not refusal and new > 0 and redis.call('ZCARD', P .. ':rooms') + new > most then refusal = 'rooms' end
  if refusal then
    for _ = 1, count do answers[#answers + 1] = refusal end
  else
    if new > 0 then
      local gone = 0  -- it may have been here before, and lost all it had
      for _, offset in ipairs(redis.call('HVALS', P .. ':gone')) do gone = math.max(gone, tonumber(offset)) end
      for room in pairs(fresh) do
        redis.call('ZADD', P .. ':rooms', text(gone), room)
        there[room] = true
      end
    end
    for a = at, at + 7 * (count - 1), 7 do
      local room, id = ARGV[a], ARGV[a + 1]
      local known = own[id]
      if known[1] then
        answers[#answers + 1] = {tonumber(known[1]), tonumber(known[2]), entry(known[1]) or false}
      else
        head = head + 1
        local offset = text(head)
        redis.call('XADD', P .. ':log', offset .. '-0', 't', time, 'h', ARGV[a + 4], 'd', ARGV[a + 5])
        redis.call('ZADD', P .. ':room:' .. room, offset, offset)
        if ARGV[a + 6] == '1' then redis.call('HINCRBY', P .. ':sizes', room, #ARGV[a + 5]) end
        redis.call('SET', P .. ':id:' .. id, offset .. ' ' .. time .. ' ' .. ARGV[a + 3], 'PX', ARGV[a + 2])
        known[1] = offset
        answers[#answers + 1] = head
      end
    end
  end
  at = at + 7 * count
end
redis.call('HSET', P, 'head', text(head))
return answers
"""
)

STRETCH: Final = (
    _EPOCH
    + """
-- epoch, offset after which, most messages, most bytes: the head, what retention took, messages
local offset, left, bytes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found = {}
while left > 0 and bytes > 0 do
  local some = redis.call('XRANGE', P .. ':log', '(' .. offset .. '-0', '+', 'COUNT', math.min(left, 32))
  if #some == 0 then break end
  for _, one in ipairs(some) do
    found[#found + 1] = one
    bytes = bytes - #one[2][6]
    left = left - 1
    offset = string.match(one[1], '^%d+')
    if bytes <= 0 then break end
  end
end
local head, pruned = unpack(redis.call('HMGET', P, 'head', 'pruned'))
return {head, pruned, found}
"""
)

ROOMS: Final = (
    _EPOCH
    + _ENTRY
    + """
-- epoch, offset after which, most messages, most bytes, rooms: the head, messages, the offset up to which all are
-- there, the rooms that have messages with what retention took of each, and of rooms that are empty, by rule
local after, most, bytes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local head = redis.call('HGET', P, 'head')
local offsets, rooms = {}, {}
for number = 5, #ARGV do
  local taken = redis.call('ZSCORE', P .. ':rooms', ARGV[number])
  if taken then
    rooms[#rooms + 1] = ARGV[number]
    rooms[#rooms + 1] = taken
    local key = P .. ':room:' .. ARGV[number]
    for _, offset in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. after, '+inf', 'LIMIT', 0, most)) do
      offsets[#offsets + 1] = tonumber(offset)
    end
  end
end
table.sort(offsets)
local found, reached = {}, head
for place, number in ipairs(offsets) do
  local one = entry(text(number))
  if one then
    found[#found + 1] = one
    bytes = bytes - #one[2][6]
  end
  if place == most or bytes <= 0 then
    reached = text(number)
    break
  end
end
return {head, found, reached, rooms, redis.call('HGETALL', P .. ':gone')}
"""
)

NEWEST: Final = (
    _EPOCH
    + _ENTRY
    + """
-- epoch, room, offset below which, most messages, most bytes: messages, newest first
local key, bytes = P .. ':room:' .. ARGV[2], tonumber(ARGV[5])
local found = {}
for _, offset in ipairs(redis.call('ZREVRANGEBYSCORE', key, '(' .. ARGV[3], '-inf', 'LIMIT', 0, ARGV[4])) do
  local one = entry(offset)
  if bytes <= 0 then break end
  if one then
    found[#found + 1] = one
    bytes = bytes - #one[2][6]
  end
end
return found
"""
)

PRUNE: Final = (
    _EPOCH
    + _ENTRY
    + """
-- epoch, most messages to take, time from which on nothing is taken; then for each room: its name, its rule, the time
-- before which messages are taken, most messages, most bytes ('' for any): how many were taken
local left, spared = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken = 0
for a = 4, #ARGV, 5 do
  local room, rule, since = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2])
  local messages, bytes = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local key = P .. ':room:' .. room
  local count, size = redis.call('ZCARD', key), tonumber(redis.call('HGET', P .. ':sizes', room) or 0)
  local last
  while left > 0 and count > 0 do
    local offset = redis.call('ZRANGE', key, 0, 0)[1]
    local one = entry(offset)
    if one then
      local written = tonumber(one[2][2])
      local over = count > messages or (bytes and size > bytes and count > 1)
      if written >= spared or not (written < since or over) then break end
      redis.call('XDEL', P .. ':log', offset .. '-0')
      size = size - #one[2][6]
    end
    redis.call('ZREM', key, offset)
    count = count - 1
    left = left - 1
    taken = taken + 1
    last = offset
  end
  if last then
    if tonumber(redis.call('HGET', P, 'pruned')) < tonumber(last) then redis.call('HSET', P, 'pruned', last) end
    if count > 0 then
      if bytes then redis.call('HSET', P .. ':sizes', room, text(math.max(size, 0))) end
      redis.call('ZADD', P .. ':rooms', 'XX', last, room)
    else
      redis.call('HDEL', P .. ':sizes', room)
      redis.call('ZREM', P .. ':rooms', room)
      if tonumber(redis.call('HGET', P .. ':gone', rule) or 0) < tonumber(last) then
        redis.call('HSET', P .. ':gone', rule, last)
      end
    end
  end
end
return taken
"""
)

_NOW: Final = """
local P, name, key = KEYS[1], ARGV[1], ARGV[3]
local values, ends = P .. ':table:' .. name, P .. ':ends:' .. name
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local function forget(one)
  redis.call('HDEL', values, one)
  redis.call('ZREM', ends, one)
end
local function living()
  local ending = redis.call('ZSCORE', ends, key)
  if ending and tonumber(ending) > now then return string.sub(redis.call('HGET', values, key), 9) end
end
"""

GET: Final = (
    _NOW
    + """
-- table, now, key
return living() or false
"""
)

PUT: Final = (
    _NOW
    + """
-- table, now, key, value, milliseconds of life
local ending, past = now + tonumber(ARGV[5]), string.format('%.0f', now)
local kept = struct.pack('>d', ending) .. ARGV[4]
redis.call('HSET', values, key, kept)
redis.call('ZADD', ends, string.format('%.0f', ending), key)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', past, 'LIMIT', 0, 8)) do forget(one) end
redis.call('PUBLISH', values, struct.pack('>I4', #key) .. key .. kept)
return redis.status_reply('OK')
"""
)

TAKE: Final = (
    _NOW
    + """
-- table, now, key
local value = living()
if redis.call('HEXISTS', values, key) == 1 then
  forget(key)
  redis.call('PUBLISH', values, struct.pack('>I4', #key) .. key)
end
return value or false
"""
)
