-- Create a tenant unless one of its name exists.
-- KEYS[1]  the tenant's record: hash
-- ARGV     field, value, ...
-- Returns  1 when created, 0 when it existed
-- TTL      none: tenants are kept
-- Clock    not used
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
