-- Claim the lease assigned to a waiting request: its call starts now.
-- ARGV[1]  ID, ARGV[2] lifetime of the lease without renewal
-- Returns  JSON: decision "leased" (see lease.lua), "wait": not assigned yet, or "forgotten": no such request or lease
local id = ARGV[1]
local lease = lease_of(id)
if lease and lease.g then return reply(claim(id, lease, now + tonumber(ARGV[2]))) end
return reply({decision = redis.call('HEXISTS', K.waiters, id) == 1 and 'wait' or 'forgotten'})
