-- Change the status of a batch, if it has one from which the new one follows (TRANSITIONS in jobs/batches.py).
-- KEYS[1]  the batch: hash
-- KEYS[2]  batches of the tenant that have not ended: set
-- ARGV[1]  batch ID
-- ARGV[2]  JSON array of the statuses from which the new one follows
-- ARGV[3]  1 if the new status is final
-- ARGV[4]  JSON array of the fields to set, status included: name, value, name, value, ...
-- Returns  1; 0 if its status is another one, and nothing was changed
local status = redis.call('HGET', KEYS[1], 'status')
for _, one in ipairs(cjson.decode(ARGV[2])) do
  if one == status then
    redis.call('HSET', KEYS[1], unpack(cjson.decode(ARGV[4])))
    if ARGV[3] == '1' then redis.call('SREM', KEYS[2], ARGV[1]) end
    return 1
  end
end
return 0
