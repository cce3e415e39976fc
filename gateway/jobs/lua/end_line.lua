-- Record what became of a claimed line. A line ends once: a later result of another process is dropped. A process whose
-- claim is void (claim_lines.lua) can only complete the line: what it bought is worth more than another's error.
-- KEYS[1]  the batch: hash; completed and failed count its ended lines; unstored, those whose images were lost since one
--          was stored; paused_until_ms (Unix) and pause_reason
-- KEYS[2], KEYS[3]  see claim_lines.lua
-- KEYS[4]  ended lines of the batch: bitmap
-- KEYS[5]  lines of the batch's output or error file: list, see jobs/batch_output.py
-- KEYS[6]  tries of lines: hash, line -> failures that count
-- ARGV[1], ARGV[2]  claim: "BATCH LINE TOKEN"; line
-- ARGV[3]  "completed" or "failed": the line ended; "stored": it is completed, but claimed until its reservation is settled,
--          which the other results confirm; "waiting": it is known not to be bought, and runs again; "doubtful": its
--          order is looked at again
-- ARGV[4]  the line of the file, or the delay in milliseconds
-- ARGV[5]  with "waiting" and "doubtful": limit on its failures, this one included; 0: it does not count
-- ARGV[6], ARGV[7]  milliseconds for which no other line of the batch begins, and why; 0: it is not paused. With "failed",
--          the images of the line were lost: the pause doubles each time, up to 30 minutes
-- Returns  1; 0 if the line had ended before, or the claim is void; 2 if it has failed too often, and still is claimed
-- TTL      3 days: a batch ends within its window of 24 h
-- Clock    the server's
local KEPT_S, SETTLED_KEPT_S, PAUSE_MAX_MS = 3 * 86400, 900, 1800 * 1000
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local member, batch_id = ARGV[1], string.match(ARGV[1], '^%S+')
local is_complete = ARGV[3] == 'stored' or ARGV[3] == 'completed'
local status = redis.call('HGET', KEYS[1], 'status')

-- The line's order protected it from a second purchase until it ended.
local function forget_order()
  local base = string.sub(KEYS[2], 1, -12)
  local record = base .. 'idempotency:' .. batch_id .. ':' .. ARGV[2]
  local order = redis.call('HGET', record, 'order')
  if not order then return end
  redis.call('DEL', record)
  local reservation = base .. 'reservation:' .. order
  if redis.call('HEXISTS', reservation, 'settled') == 1 then redis.call('EXPIRE', reservation, SETTLED_KEPT_S) end
end

-- Lines that run at one time count as one failure.
local function pause()
  local pause_ms, until_ms = tonumber(ARGV[6]), tonumber(redis.call('HGET', KEYS[1], 'paused_until_ms') or 0)
  if pause_ms == 0 then return end
  if ARGV[3] == 'failed' then
    local before = tonumber(redis.call('HGET', KEYS[1], 'unstored') or 0)
    if before == 0 or until_ms <= now_ms then before = redis.call('HINCRBY', KEYS[1], 'unstored', 1) end
    pause_ms = math.min(PAUSE_MAX_MS, pause_ms * 2 ^ math.min(before - 1, 16))
  end
  redis.call('HSET', KEYS[1], 'paused_until_ms', string.format('%.0f', math.max(until_ms, now_ms + pause_ms)),
    'pause_reason', ARGV[7])
end

if not is_complete and not redis.call('ZSCORE', KEYS[2], member) then return 0 end
local is_open = status == 'in_progress' or status == 'finalizing' or status == 'cancelling'
if not is_open or redis.call('GETBIT', KEYS[4], ARGV[2]) == 1 then
  redis.call('ZREM', KEYS[2], member)
  redis.call('ZREM', KEYS[3], ARGV[2])
  forget_order()
  return 0
end
pause()
if (ARGV[3] == 'waiting' or ARGV[3] == 'doubtful') and tonumber(ARGV[5]) > 0 then
  local tries = redis.call('HINCRBY', KEYS[6], ARGV[2], 1)
  redis.call('EXPIRE', KEYS[6], KEPT_S)
  if tries >= tonumber(ARGV[5]) then return 2 end
end
if ARGV[3] == 'doubtful' then
  redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[4]), member)
  return 1
end
if ARGV[3] == 'waiting' then
  redis.call('ZADD', KEYS[3], now_ms + tonumber(ARGV[4]), ARGV[2])
  redis.call('EXPIRE', KEYS[3], KEPT_S)
  redis.call('ZREM', KEYS[2], member)
  return 1
end
redis.call('SETBIT', KEYS[4], ARGV[2], 1)
redis.call('EXPIRE', KEYS[4], KEPT_S)
redis.call('HINCRBY', KEYS[1], is_complete and 'completed' or 'failed', 1)
if is_complete then redis.call('HDEL', KEYS[1], 'unstored') end
redis.call('RPUSH', KEYS[5], ARGV[4])
redis.call('EXPIRE', KEYS[5], KEPT_S)
redis.call('ZREM', KEYS[3], ARGV[2])
if ARGV[3] ~= 'stored' then
  redis.call('ZREM', KEYS[2], member)
  forget_order()
end
return 1
