-- Change a tenant or one of its keys, unless it changed since it was read, with its audit entry and the message that
-- invalidates the caches of every process.
-- KEYS[1], [2]   the tenant's record and its keys: hashes
-- KEYS[3], [4]   IDs of configured keys that an operator revoked: set; the tenant's audit log: stream
-- KEYS[5]        the tenant's events: stream, see streams.lua
-- KEYS[6]        the tenant's closed months: hash
-- KEYS[7], [8]   sessions and one-time links of the console, whose owner is "console:": hashes
-- ARGV[1..3]     channel, message, retention of the audit log in seconds
-- ARGV[4..9]     action ("" is not audited), actor, request ID, key ID, before and after: JSON or ""
-- ARGV[10], [11] ID to add to KEYS[3], ID that must not be in it; each may be ""
-- ARGV[12]       limit on the fields of KEYS[2], if one is added; or ""
-- ARGV[13]       JSON: events of the change, each its type and its data (JSON)
-- ARGV[14..]     quadruples: 1, 2, 6, 7 or 8 for the hash, field, value as read, new value; "=" and its text, or "" if absent
-- Returns        1, 0 if a value has changed since it was read, or -1 if KEYS[2] is full: then nothing is written
-- TTL            none; the audit log drops entries older than ARGV[3]. Clock: the server's
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for at, look in ipairs({'HLEN', 'HLEN', 'SCARD', 'XLEN', 'XLEN', 'HLEN'}) do redis.call(look, KEYS[at]) end
if ARGV[11] ~= '' and redis.call('SISMEMBER', KEYS[3], ARGV[11]) == 1 then return 0 end
if ARGV[12] ~= '' and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[12]) then return -1 end
for i = 14, #ARGV, 4 do
  local value = redis.call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1])
  if (value and '=' .. value or '') ~= ARGV[i + 2] then return 0 end
end
for i = 14, #ARGV, 4 do
  local hash, field, value = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 3]
  if value == '' then redis.call('HDEL', hash, field) else redis.call('HSET', hash, field, string.sub(value, 2)) end
end
if ARGV[10] ~= '' then redis.call('SADD', KEYS[3], ARGV[10]) end
if ARGV[4] ~= '' then
  append_audit(KEYS[4], now_ms, tonumber(ARGV[3]), unpack(ARGV, 4, 9))
end
for _, event in ipairs(cjson.decode(ARGV[13])) do append_event(KEYS[5], event[1], now_ms, event[2]) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
