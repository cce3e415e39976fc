-- Change the status of a batch, if it has one from which the new one follows (TRANSITIONS in jobs/batches.py).
-- KEYS[1]  the batch: hash
-- KEYS[2]  batches of the tenant that have not ended: set
-- KEYS[3], KEYS[4]  bytes of the tenant's records, and its failed batches: see create_batch.lua
-- ARGV[1]  batch ID
-- ARGV[2]  JSON array of the statuses from which the new one follows
-- ARGV[3]  "failed" or "ended" if the new status is final, or ""
-- ARGV[4]  JSON array of the fields to set, status included: name, value, name, value, ...
-- Returns  1; 0 if its status is another one, and nothing was changed
-- TTL      as create_batch.lua sets it; `batches_failed` as long as its batches
-- Clock    the server's
local status = redis.call('HGET', KEYS[1], 'status')
for _, one in ipairs(cjson.decode(ARGV[2])) do
  if one == status then
    redis.call('HSET', KEYS[1], unpack(cjson.decode(ARGV[4])))
    if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then
      redis.call('HINCRBY', KEYS[3], ARGV[1], #ARGV[4])
      redis.call('HINCRBY', KEYS[3], 'total', #ARGV[4])
    end
    if ARGV[3] ~= '' then redis.call('SREM', KEYS[2], ARGV[1]) end
    if ARGV[3] == 'failed' then
      redis.call('ZADD', KEYS[4], redis.call('TIME')[1] * 1000, ARGV[1])
      redis.call('EXPIRE', KEYS[4], redis.call('TTL', KEYS[1]))
    end
    return 1
  end
end
return 0
