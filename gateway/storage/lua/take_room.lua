-- Count the bytes of an object that is about to be stored, within the tenant's quota, and set when it expires.
-- KEYS[1]  hash: the tenant's record, with its own keep_hours and storage_bytes in the field `storage`, as JSON
-- KEYS[2]  hash: hour of expiry (Unix seconds / 3600) -> bytes of the objects that expire then
-- KEYS[3]  string, while what the tenant has stored is erased: nothing is stored meanwhile
-- KEYS[4]  absent, or hash: its field `stored_until` is the hour of expiry once these bytes are counted, and a repeated
--          call counts nothing
-- ARGV[1]  bytes
-- ARGV[2]  seconds for which the object is kept; 0 for the tenant's keep_hours, or else those of ARGV[3]
-- ARGV[3], ARGV[4]  hours and bytes of a tenant that has none of its own
-- ARGV[5]  hour of expiry, if an earlier call has set it; else 0
-- Returns  {hour of expiry, quota in bytes}; {0, quota} if the quota would be exceeded, {0, -1} during an erasure, and
--          nothing was counted
-- TTL      KEYS[2]: until the last of its hours. It has at most one field for each hour that objects are kept.
--          KEYS[4]: unchanged
-- Clock    the server's
if redis.call('EXISTS', KEYS[3]) == 1 then return {0, -1} end
local own = redis.call('HGET', KEYS[1], 'storage')
own = own and own ~= '' and cjson.decode(own) or {}
local now = tonumber(redis.call('TIME')[1])
local hour = tonumber(ARGV[5])
if hour == 0 then
  local kept = tonumber(ARGV[2])
  if kept == 0 then kept = 3600 * (own.keep_hours or tonumber(ARGV[3])) end
  hour = math.ceil((now + kept) / 3600)
end
local max = own.storage_bytes or tonumber(ARGV[4])
local counted_until = KEYS[4] and redis.call('HGET', KEYS[4], 'stored_until')
if counted_until then return {tonumber(counted_until), max} end
local stored, last = tonumber(ARGV[1]), hour
local counted = redis.call('HGETALL', KEYS[2])
for at = 1, #counted, 2 do
  local ends = tonumber(counted[at])
  if ends * 3600 <= now then
    redis.call('HDEL', KEYS[2], counted[at])
  else
    stored = stored + tonumber(counted[at + 1])
    last = math.max(last, ends)
  end
end
if stored > max then return {0, max} end
redis.call('HINCRBY', KEYS[2], hour, ARGV[1])
redis.call('EXPIREAT', KEYS[2], last * 3600)
if KEYS[4] then redis.call('HSET', KEYS[4], 'stored_until', hour) end
return {hour, max}
