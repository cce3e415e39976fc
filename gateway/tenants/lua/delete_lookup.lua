-- Forget whose a key is, unless it is another tenant's by now.
-- KEYS[1]  the lookup of the key's public id: string
-- ARGV[1]  the tenant whose it was
-- Returns  1 when forgotten, else 0
-- TTL      none
-- Clock    not used
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
