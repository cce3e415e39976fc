-- Record in a reservation that images are about to be ordered from an account, or that an order turned out to be free.
-- Written before the first byte is sent: from then on a process that dies leaves an unknown outcome, not a refund.
-- KEYS[1]  the reservation, KEYS[2] open reservations of the tenant, KEYS[3] of the key: see admit.lua
-- ARGV[1], ARGV[2]  reservation ID; upstream and account, "UPSTREAM/ACCOUNT"
-- ARGV[3], ARGV[4]  images, negative when an order is known to be free; lease, milliseconds
-- Returns  1; 0 if the reservation is already settled, and nothing may be sent on it
-- TTL      that of the reservation
-- Clock    the server's, as in renew.lua
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
local time = redis.call('TIME')
local expiry_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[4])
redis.call('HINCRBY', KEYS[1], 'sent:' .. ARGV[2], ARGV[3])
for _, open in ipairs({KEYS[2], KEYS[3]}) do
  for _, name in ipairs({open, (string.gsub(open, 'open$', 'batch_open'))}) do
    redis.call('ZADD', name, 'XX', expiry_ms, ARGV[1])
  end
end
return 1
