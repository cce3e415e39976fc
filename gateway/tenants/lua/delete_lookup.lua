-- Delete the lookup of a key ID, unless another tenant owns it now.
-- KEYS[1]  the lookup of the key ID: string
-- ARGV[1]  the former owner
-- Returns  1 if deleted, else 0
-- TTL      none
-- Clock    not used
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
