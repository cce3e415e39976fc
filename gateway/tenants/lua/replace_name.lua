-- Put a pseudonym in the place of a tenant that is deleted for good. Its first name stays reserved until KEYS[2] loses it.
-- KEYS[1]  IDs of all tenants: set
-- KEYS[2]  name -> ID, of every later name of renamed tenants: hash
-- ARGV[1], ARGV[2]  ID of the tenant, its pseudonym
-- Returns  1. TTL: none. Clock: not used
local later = redis.call('HGETALL', KEYS[2])
redis.call('SADD', KEYS[1], ARGV[2])
redis.call('SREM', KEYS[1], ARGV[1])
for i = 1, #later, 2 do
  if later[i + 1] == ARGV[1] then redis.call('HDEL', KEYS[2], later[i]) end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[1])
return 1
