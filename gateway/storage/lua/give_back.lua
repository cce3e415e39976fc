-- Take the bytes of a deleted object, or of one that was not stored, from those of its tenant.
-- KEYS[1]  hash: hour of expiry -> bytes
-- ARGV[1], ARGV[2]  hour of expiry; bytes
-- Returns  1
-- TTL      unchanged
-- Clock    none
local counted = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if counted > tonumber(ARGV[2]) then
  redis.call('HINCRBY', KEYS[1], ARGV[1], -ARGV[2])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
