-- Heartbeat of a process: extends its open reservations of one tenant.
-- KEYS[1]  open reservations of the tenant: see admit.lua; of a key: BASE .. "key:ID:open", of the same hash tag
-- ARGV[1]  lease, milliseconds
-- ARGV[2..] reservation ID, key ID, ...
-- Returns  the number of them that are still open
-- TTL      unchanged
-- Clock    the server's; after it was set back a renewal makes the expiry earlier
local time = redis.call('TIME')
local expiry_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
local base = string.sub(KEYS[1], 1, -5)
local open = 0
for i = 2, #ARGV, 2 do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    open = open + 1
    for _, scope in ipairs({base, base .. 'key:' .. ARGV[i + 1] .. ':'}) do
      for _, name in ipairs({'open', 'batch_open'}) do
        redis.call('ZADD', scope .. name, 'XX', expiry_ms, ARGV[i])
      end
    end
  end
end
return open
