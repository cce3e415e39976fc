-- Create a batch, or find the one that the same Idempotency-Key created. Makes room for its record.
-- KEYS[1]  batches of the tenant: sorted set, batch ID -> creation (Unix ms, later than that of the one before)
-- KEYS[2]  batches of the tenant that have not ended: set
-- KEYS[3]  the batch: hash, see jobs/batches.py; `idempotency` names the record of its Idempotency-Key
-- KEYS[4]  record of the Idempotency-Key: hash of fingerprint and batch; unused without ARGV[9]
-- KEYS[5]  bytes of the tenant's records: hash, batch ID -> bytes; `total` is their sum
-- KEYS[6]  failed batches of the tenant: sorted set, batch ID -> when it failed (Unix ms)
-- ARGV[1]  batch ID
-- ARGV[2], ARGV[3], ARGV[4]  limit on open batches, on all batches of the tenant, on the bytes of their records
-- ARGV[5], ARGV[6], ARGV[7]  retention of a batch, of a failed one, of an Idempotency-Key, seconds
-- ARGV[8], ARGV[9]  Idempotency-Key and fingerprint of the request, or "" and ""
-- ARGV[10] JSON array of the batch's fields: name, value, name, value, ...
-- Returns  batch ID: the new one or the existing one; "open" if a limit is reached by batches that have not ended;
--          "reused" if the key belongs to another request
-- Clock    the server's
local DROPPED_MAX = 100  -- of those whose retention has ended, a call
local BASE = string.sub(KEYS[1], 1, -8)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[9] ~= '' then
  local found = redis.call('HMGET', KEYS[4], 'fingerprint', 'batch')
  if found[1] then return found[1] == ARGV[9] and found[2] or 'reused' end
end

local function drop(id)
  local record = BASE .. 'batch:' .. id
  local key = redis.call('HGET', record, 'idempotency')
  local remembered = key and BASE .. 'idempotency:batches:' .. key
  -- After its retention the key may belong to a later batch.
  if key and redis.call('HGET', remembered, 'batch') == id then redis.call('DEL', remembered) end
  redis.call('DEL', record)
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZREM', KEYS[6], id)
  redis.call('HINCRBY', KEYS[5], 'total', -tonumber(redis.call('HGET', KEYS[5], id) or 0))
  redis.call('HDEL', KEYS[5], id)
end

local function drop_older(key, kept_s)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now_ms - kept_s * 1000, 'LIMIT', 0, DROPPED_MAX)) do
    drop(id)
  end
end

if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[2]) then return 'open' end
drop_older(KEYS[1], ARGV[5])
drop_older(KEYS[6], ARGV[6])
local bytes, older = #ARGV[10], 0
while redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3])
  or tonumber(redis.call('HGET', KEYS[5], 'total') or 0) + bytes > tonumber(ARGV[4]) do
  local id = redis.call('ZRANGE', KEYS[1], older, older)[1]
  if not id then return 'open' end
  if redis.call('SISMEMBER', KEYS[2], id) == 1 then older = older + 1 else drop(id) end
end
redis.call('HSET', KEYS[3], unpack(cjson.decode(ARGV[10])))
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[1], math.max(now_ms, (last or 0) + 1), ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[5], ARGV[1], bytes)
redis.call('HINCRBY', KEYS[5], 'total', bytes)
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[3], 'idempotency', ARGV[8])
  redis.call('HSET', KEYS[4], 'fingerprint', ARGV[9], 'batch', ARGV[1])
  redis.call('EXPIRE', KEYS[4], ARGV[7])
end
for _, index in ipairs({1, 2, 3, 5, 6}) do redis.call('EXPIRE', KEYS[index], ARGV[5]) end
return ARGV[1]
