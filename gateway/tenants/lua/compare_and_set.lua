-- Change a tenant or one of its keys, unless it changed since it was read, with its audit entry and the message that
-- invalidates the caches of every process.
-- KEYS[1]  the tenant's record: hash
-- KEYS[2]  the tenant's keys: hash
-- KEYS[3]  IDs of configured keys that an operator revoked: set
-- KEYS[4]  the tenant's audit log: stream
-- ARGV[1]  channel, ARGV[2] message
-- ARGV[3]  retention of the audit log, seconds
-- ARGV[4]  action, "" for a change that is not audited
-- ARGV[5]  actor, ARGV[6] request ID, ARGV[7] key ID, ARGV[8] before, ARGV[9] after: JSON or ""
-- ARGV[10] ID to add to KEYS[3], or ""; ARGV[11] ID that must not be in it, or ""
-- ARGV[12..] quadruples: 1 or 2 for the hash, field, value as read, new value; a value is "=" and its text, or "" if absent
-- Returns  1, or 0 if a value has changed since it was read: nothing is written
-- TTL      none; the audit log drops entries older than ARGV[3]
-- Clock    the server's, for the audit log
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
