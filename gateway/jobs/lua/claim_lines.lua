-- Claim lines of a batch for a process. Preceded by metering/lua/repeats.lua.
-- KEYS[1]  the batch: hash, see jobs/batches.py; also next, the last line that was ever claimed
-- KEYS[2]  claimed lines of the tenant: sorted set, "BATCH LINE" -> expiry (Unix ms); its name without "batch_lines" is
--          the BASE of repeats.lua
-- KEYS[3]  lines of the batch that wait again: sorted set, line -> when they are due (Unix ms)
-- ARGV[1]  batch ID
-- ARGV[2]  claim, milliseconds
-- ARGV[3], ARGV[4]  lines wanted, limit on the tenant's claimed lines
-- Returns  JSON: lines, arrays of line and "" (to run), "unknown" or "gone" (it was sent, and its outcome was not stored);
--          status; expires_at; in_flight and waiting, the batch's lines that are claimed, and that are to be; is_done, all
--          lines have ended; is_over, the window has ended; is_paused
-- Clock    the server's
-- A claim that expired is of a process that died, or of a line in doubt: its order (repeats.lua) decides. A line whose order
-- is free was not bought and waits as before; one that is running is looked at again. Any other ends with what its order says,
-- unless its process renews the claim within half of it: after an outage, and when the clock was stepped, every claim looks
-- expired. The half millisecond of its score marks a line that was looked at once.
local RUNNING_MS, LOOKED_AT_MAX = 3000, 100
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = redis.call('HMGET', KEYS[1], 'status', 'total', 'next', 'paused_until_ms', 'expires_at', 'completed', 'failed')
local total, next, ended = tonumber(found[2] or 0), tonumber(found[3] or 0), (found[6] or 0) + (found[7] or 0)
local answer = {
  lines = {}, status = found[1] or '', in_flight = 0, expires_at = tonumber(found[5] or 0), is_done = ended >= total,
  is_over = now_ms >= tonumber(found[5] or 0) * 1000, is_paused = now_ms < tonumber(found[4] or 0),
}
local base, prefix = string.sub(KEYS[2], 1, -12), ARGV[1] .. ' '
local may_run = found[1] == 'in_progress' and not answer.is_over and not answer.is_paused
local room = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - redis.call('ZCOUNT', KEYS[2], now_ms, '+inf'))

local function claim(line, state)
  redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[2]), prefix .. line)
  table.insert(answer.lines, {line, state})
  room = room - 1
end

local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. now_ms, 'WITHSCORES', 'LIMIT', 0, LOOKED_AT_MAX)
for i = 1, #expired, 2 do
  local member, until_ms = expired[i], tonumber(expired[i + 1])
  if string.sub(member, 1, #prefix) == prefix then
    local line = tonumber(string.sub(member, #prefix + 1))
    local id = redis.call('HGET', base .. 'idempotency:' .. ARGV[1] .. ':' .. line, 'order')
    local state = id and order_state(base, id, now_ms) or 'free'
    if state == 'running' then
      redis.call('ZADD', KEYS[2], now_ms + RUNNING_MS, member)
    elseif state == 'free' then
      redis.call('ZREM', KEYS[2], member)
      redis.call('ZADD', KEYS[3], now_ms, line)
      redis.call('EXPIRE', KEYS[3], 3 * 86400)
    elseif until_ms % 1 == 0 then
      redis.call('ZADD', KEYS[2], now_ms + math.floor(ARGV[2] / 2) + 0.5, member)
    else
      claim(line, state)
    end
  end
end
if may_run and room > 0 then
  for _, line in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms, 'LIMIT', 0, room)) do
    redis.call('ZREM', KEYS[3], line)
    claim(tonumber(line), '')
  end
  while room > 0 and next < total do
    next = next + 1
    claim(next, '')
  end
  redis.call('HSET', KEYS[1], 'next', next)
end
if #answer.lines > 0 then redis.call('EXPIRE', KEYS[2], 3 * 86400) end
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if string.sub(member, 1, #prefix) == prefix then answer.in_flight = answer.in_flight + 1 end
end
answer.waiting = math.max(0, total - ended - answer.in_flight)
if #answer.lines == 0 then answer.lines = nil end
return cjson.encode(answer)
