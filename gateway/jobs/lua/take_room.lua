-- Take room for a stored result, within a limit on the bytes that were stored in the retention time.
-- KEYS[1]  hash: retention period -> bytes stored in it; of a tenant, or of the gateway
-- ARGV[1], ARGV[2]  bytes to store, negative to give them back; limit on the bytes of this period and the one before
-- ARGV[3]  retention of a result, seconds: the length of a period
-- Returns  1; 0 if there is no room, and nothing was taken
-- TTL      two periods
-- Clock    the server's
local slice = math.floor(tonumber(redis.call('TIME')[1]) / tonumber(ARGV[3]))
local size = tonumber(ARGV[1])
if size < 0 then
  for at = slice, slice - 1, -1 do
    local back = math.min(-size, tonumber(redis.call('HGET', KEYS[1], at) or 0))
    if back > 0 then redis.call('HINCRBY', KEYS[1], at, -back) end
    size = size + back
  end
  return 1
end
local stored = redis.call('HMGET', KEYS[1], slice, slice - 1)
if (stored[1] or 0) + (stored[2] or 0) + size > tonumber(ARGV[2]) then return 0 end
for _, old in ipairs(redis.call('HKEYS', KEYS[1])) do
  if math.abs(tonumber(old) - slice) > 1 then redis.call('HDEL', KEYS[1], old) end
end
redis.call('HINCRBY', KEYS[1], slice, ARGV[1])
redis.call('EXPIRE', KEYS[1], 2 * tonumber(ARGV[3]))
return 1
