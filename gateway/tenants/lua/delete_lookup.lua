-- Delete KEYS[1], the lookup of a key ID (string), unless another tenant than ARGV[1] owns it now.
-- Returns 1 if deleted, else 0. TTL: none. Clock: not used
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
