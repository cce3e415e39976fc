-- Change fields of a tenant that exists.
-- KEYS[1]  the tenant's record: hash
-- ARGV     field, value, ...
-- Returns  1 when changed, 0 when there is no such tenant
-- TTL      none: tenants are kept
-- Clock    not used
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
