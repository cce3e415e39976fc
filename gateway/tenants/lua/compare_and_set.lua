-- Change a tenant or one of its keys, unless it changed since it was read, with its audit entry and the message that
-- invalidates the caches of every process.
-- KEYS[1], [2]   the tenant's record and its keys: hashes
-- KEYS[3], [4]   IDs of configured keys that an operator revoked: set; the tenant's audit log: stream
-- KEYS[5]        the tenant's closed months: hash
-- ARGV[1..3]     channel, message, retention of the audit log in seconds
-- ARGV[4..9]     action ("" is not audited), actor, request ID, key ID, before and after: JSON or ""
-- ARGV[10], [11] ID to add to KEYS[3], ID that must not be in it; each may be ""
-- ARGV[12..]     quadruples: 1, 2 or 5 for the hash, field, value as read, new value; "=" and its text, or "" if absent
-- Returns        1, or 0 if a value has changed since it was read: nothing is written
-- TTL            none; the audit log drops entries older than ARGV[3]. Clock: the server's
if ARGV[11] ~= '' and redis.call('SISMEMBER', KEYS[3], ARGV[11]) == 1 then return 0 end
for i = 12, #ARGV, 4 do
  local value = redis.call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1])
  if (value and '=' .. value or '') ~= ARGV[i + 2] then return 0 end
end
for i = 12, #ARGV, 4 do
  local hash, field, value = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 3]
  if value == '' then redis.call('HDEL', hash, field) else redis.call('HSET', hash, field, string.sub(value, 2)) end
end
if ARGV[10] ~= '' then redis.call('SADD', KEYS[3], ARGV[10]) end
if ARGV[4] ~= '' then
  local oldest_ms = math.max(0, tonumber(redis.call('TIME')[1]) - tonumber(ARGV[3])) * 1000
  redis.call('XADD', KEYS[4], 'MINID', '~', string.format('%.0f', oldest_ms), '*', 'action', ARGV[4], 'actor', ARGV[5],
    'request_id', ARGV[6], 'key_id', ARGV[7], 'before', ARGV[8], 'after', ARGV[9])
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
