-- Create a batch, or find the one that the same Idempotency-Key created.
-- KEYS[1]  batches of the tenant: sorted set, batch ID -> creation (Unix ms, later than that of the one before)
-- KEYS[2]  batches of the tenant that have not ended: set
-- KEYS[3]  the batch: hash, see jobs/batches.py
-- KEYS[4]  record of the Idempotency-Key: hash of fingerprint and batch; unused without ARGV[5]
-- ARGV[1]  batch ID
-- ARGV[2], ARGV[3]  limit on open batches, on all batches of the tenant
-- ARGV[4]  retention of the batch, seconds; older ones are dropped from the list
-- ARGV[5], ARGV[6]  fingerprint of the request, or "", and retention of its key, seconds
-- ARGV[7]  JSON array of the batch's fields: name, value, name, value, ...
-- Returns  batch ID: the new one or the existing one; "open" or "kept" if that limit is reached; "reused" if the key
--          belongs to another request
-- Clock    the server's
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[5] ~= '' then
  local found = redis.call('HMGET', KEYS[4], 'fingerprint', 'batch')
  if found[1] then return found[1] == ARGV[5] and found[2] or 'reused' end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[4] * 1000)
if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[2]) then return 'open' end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 'kept' end
redis.call('HSET', KEYS[3], unpack(cjson.decode(ARGV[7])))
redis.call('EXPIRE', KEYS[3], ARGV[4])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[1], math.max(now_ms, (last or 0) + 1), ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[4], 'fingerprint', ARGV[5], 'batch', ARGV[1])
  redis.call('EXPIRE', KEYS[4], ARGV[6])
end
return ARGV[1]
