-- Read the outcome of an order that a repeated request has joined. Preceded by metering/lua/repeats.lua.
-- KEYS[1]  open reservations of the tenant; its name without "open" is the BASE of repeats.lua
-- ARGV[1]  reservation ID of the order
-- ARGV[2]  0, or milliseconds: the outcome is for this request alone, and expires this long after it is read
-- Returns  JSON: state, see repeats.lua; with "ended" also outcome (JSON, see jobs/outcomes.py), and is_read_first: its
--          expiry was shortened now
-- Sends    the ID to the channel of the order's process, while it has delivered the images but not stored the outcome
-- TTL      of the outcome: shortened to ARGV[2]
-- Clock    the server's
local base, id = string.sub(KEYS[1], 1, -5), ARGV[1]
local time = redis.call('TIME')
local state = order_state(base, id, tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
if state == 'running' then
  local found = redis.call('HMGET', base .. 'reservation:' .. id, 'settled', 'owner')
  if found[1] and found[2] then redis.call('PUBLISH', found[2], id) end
end
if state ~= 'ended' then return cjson.encode({state = state}) end
local outcome, kept_ms, is_read_first = redis.call('GET', base .. 'outcome:' .. id), tonumber(ARGV[2]), false
if kept_ms > 0 then
  for _, name in ipairs({base .. 'outcome:' .. id, base .. 'result:' .. id}) do
    if redis.call('PTTL', name) > kept_ms then
      redis.call('PEXPIRE', name, kept_ms)
      is_read_first = true
    end
  end
end
return cjson.encode({state = state, outcome = outcome, is_read_first = is_read_first})
