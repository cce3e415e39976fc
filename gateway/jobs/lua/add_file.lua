-- Add the record of a file to its tenant, and drop the records that have expired. Preceded by storage/lua/stored.lua.
-- KEYS[1]  hash: file ID -> JSON of jobs/files.py
-- KEYS[2]  sorted set: file ID -> expiry, Unix seconds
-- KEYS[3]  hash: idempotency key of an upload -> its fingerprint, a space, the file's ID
-- KEYS[4]  hash: hour of expiry -> bytes that the tenant stores
-- ARGV[1], ARGV[2], ARGV[3]  file ID, JSON, expiry
-- ARGV[4]  limit on the files of the tenant
-- ARGV[5], ARGV[6]  idempotency key and fingerprint of the upload, or "" and ""
-- ARGV[7], ARGV[8], ARGV[9]  bytes of an upload, the hour in which they expire so far, and that in which the file's do
-- Returns  {"added"}; {"known", JSON} of the file with this ID or with this key; {"reused"}: the key belongs to another
--          upload; {"full"}
-- TTL      KEYS[1..3]: until the last file expires. A key is remembered as long as its file
-- Clock    the server's
local id, key, fingerprint, bytes = ARGV[1], ARGV[5], ARGV[6], tonumber(ARGV[7])
local now_s = tonumber(redis.call('TIME')[1])
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_s, 'LIMIT', 0, 1000)) do
  local record = redis.call('HGET', KEYS[1], ended)
  local own = record and cjson.decode(record).key
  if own then redis.call('HDEL', KEYS[3], own) end
  redis.call('HDEL', KEYS[1], ended)
  redis.call('ZREM', KEYS[2], ended)
end
redis.call('HLEN', KEYS[4])
local known = redis.call('HGET', KEYS[1], id)
if known then return {'known', known} end
local used = key ~= '' and redis.call('HGET', KEYS[3], key)
if used then
  local same, file_id = string.match(used, '^(%S+) (%S+)$')
  if same ~= fingerprint then return {'reused'} end
  return {'known', redis.call('HGET', KEYS[1], file_id)}
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return {'full'} end
redis.call('HSET', KEYS[1], id, ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], id)
if key ~= '' then redis.call('HSET', KEYS[3], key, fingerprint .. ' ' .. id) end
local last_s = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
for index = 1, 3 do redis.call('EXPIREAT', KEYS[index], last_s) end
if bytes > 0 then
  take_back(KEYS[4], ARGV[8], bytes)
  redis.call('HINCRBY', KEYS[4], ARGV[9], bytes)
  local ends_s = ARGV[9] * 3600
  if redis.call('TTL', KEYS[4]) < ends_s - now_s then redis.call('EXPIREAT', KEYS[4], ends_s) end
end
return {'added'}
