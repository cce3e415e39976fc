-- Record what became of a claimed line. A line ends once: a later result of another process is dropped.
-- KEYS[1]  the batch: hash; completed and failed count its ended lines
-- KEYS[2], KEYS[3]  see claim_lines.lua
-- KEYS[4]  ended lines of the batch: bitmap
-- KEYS[5]  lines of the batch's output or error file: list, see jobs/batch_output.py
-- KEYS[6]  tries of lines: hash, line -> failures that count
-- ARGV[1], ARGV[2]  batch ID, line
-- ARGV[3]  "completed" or "failed": the line ended; "stored": it is completed, but claimed until its reservation is settled,
--          which the other results confirm; "waiting": it is known not to be bought, and runs again; "doubtful": its
--          order is looked at again
-- ARGV[4]  the line of the file, or the delay in milliseconds
-- ARGV[5]  with "waiting": limit on its failures, this one included; 0: it does not count
-- Returns  1; 0 if the line had ended before; 2 if it has failed too often, and still is claimed
-- TTL      3 days: a batch ends within its window of 24 h
-- Clock    the server's
local KEPT_S, SETTLED_KEPT_S = 3 * 86400, 900
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local member = ARGV[1] .. ' ' .. ARGV[2]
local status = redis.call('HGET', KEYS[1], 'status')

-- The line's order protected it from a second purchase until it ended.
local function forget_order()
  local base = string.sub(KEYS[2], 1, -12)
  local record = base .. 'idempotency:' .. ARGV[1] .. ':' .. ARGV[2]
  local order = redis.call('HGET', record, 'order')
  if not order then return end
  redis.call('DEL', record)
  local reservation = base .. 'reservation:' .. order
  if redis.call('HEXISTS', reservation, 'settled') == 1 then redis.call('EXPIRE', reservation, SETTLED_KEPT_S) end
end

local is_open = status == 'in_progress' or status == 'finalizing' or status == 'cancelling'
if not is_open or redis.call('GETBIT', KEYS[4], ARGV[2]) == 1 then
  redis.call('ZREM', KEYS[2], member)
  redis.call('ZREM', KEYS[3], ARGV[2])
  forget_order()
  return 0
end
if ARGV[3] == 'doubtful' then
  redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[4]), member)
  return 1
end
if ARGV[3] == 'waiting' then
  if tonumber(ARGV[5]) > 0 then
    local tries = redis.call('HINCRBY', KEYS[6], ARGV[2], 1)
    redis.call('EXPIRE', KEYS[6], KEPT_S)
    if tries >= tonumber(ARGV[5]) then return 2 end
  end
  redis.call('ZADD', KEYS[3], now_ms + tonumber(ARGV[4]), ARGV[2])
  redis.call('EXPIRE', KEYS[3], KEPT_S)
  redis.call('ZREM', KEYS[2], member)
  return 1
end
redis.call('SETBIT', KEYS[4], ARGV[2], 1)
redis.call('EXPIRE', KEYS[4], KEPT_S)
redis.call('HINCRBY', KEYS[1], ARGV[3] == 'failed' and 'failed' or 'completed', 1)
redis.call('RPUSH', KEYS[5], ARGV[4])
redis.call('EXPIRE', KEYS[5], KEPT_S)
redis.call('ZREM', KEYS[3], ARGV[2])
if ARGV[3] ~= 'stored' then
  redis.call('ZREM', KEYS[2], member)
  forget_order()
end
return 1
