-- Reserve a name for a tenant, for good: a name never leads to two tenants.
-- KEYS[1]  IDs of all tenants: set. A tenant's ID is its first name
-- KEYS[2]  name -> ID, of every later name of renamed tenants: hash
-- ARGV[1]  the name
-- ARGV[2]  ID of the tenant that is renamed; "" for a new tenant, whose ID is the name
-- Returns  ID of the tenant that has or had the name, if it is another one, and nothing is written; else ""
-- TTL      none. Clock: not used
local owner, is_id = redis.call('HGET', KEYS[2], ARGV[1]), redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1
if ARGV[2] == '' then
  if owner then return owner end
  redis.call('SADD', KEYS[1], ARGV[1])
  return ''
end
if ARGV[1] == ARGV[2] then return '' end
if is_id then return ARGV[1] end
if owner and owner ~= ARGV[2] then return owner end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return ''
